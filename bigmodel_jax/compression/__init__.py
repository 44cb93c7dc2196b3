"""A trained model made smaller: a run with fewer bits or fewer weights, and what that cost."""
