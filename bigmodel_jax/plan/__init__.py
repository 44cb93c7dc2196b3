"""What a training step needs on a slice, without access to it: compiled by the real compiler, counted, priced."""
