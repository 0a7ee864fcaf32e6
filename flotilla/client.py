"""For ClientApps of other people: `from flotilla.client import serve` (docs/clients.md)."""

from client_app.serve import TrainFunction, TrainTask, serve

__all__ = ["TrainFunction", "TrainTask", "serve"]
