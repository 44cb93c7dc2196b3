"""What the exit status of a run says to what started it, besides 0 and 1. No JAX."""

WRONG_INPUT = 2  # It would fail again.
SPENT = 3  # The budget of the run is spent: it saved a checkpoint, and nothing should start it again.
SIGNALS = 128  # From here on it tells of a signal, which came from outside: 128 + its number, as in a shell.
