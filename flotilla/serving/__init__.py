"""What a run leaves, used: a tier's network, its predictions, files of it for other programs."""
