"""Sweeps: arms x seeds -> trials, run by an existing engine, and what can be concluded from them."""
