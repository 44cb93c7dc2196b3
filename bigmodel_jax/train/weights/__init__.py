"""The weights of a run: how they are stored, and those of the teacher that it learns from."""
