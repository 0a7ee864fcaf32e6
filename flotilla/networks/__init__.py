"""What a network is, before it is trained."""
