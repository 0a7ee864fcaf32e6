"""Real SuperNodes: keys, processes, registration."""
