"""What a train step would need on a slice that nobody has rented: compiled by the real compiler, counted, priced."""
