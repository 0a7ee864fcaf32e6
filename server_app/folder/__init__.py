"""The run folder: metrics, checkpoints, events, and the lock on it."""
