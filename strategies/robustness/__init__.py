"""What one reply, or too few of them, can do: checks, bounds, differential privacy."""
