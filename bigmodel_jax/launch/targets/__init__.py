"""Where a run may be launched: one file for each kind of target."""
