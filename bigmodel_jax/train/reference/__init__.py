"""What a run compares its model with, computed once before the first step."""
