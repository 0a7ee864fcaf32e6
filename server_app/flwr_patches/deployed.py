"""Whether a grid is a deployment's: flwr gives no other sign of it than the class."""

from __future__ import annotations

from flwr.serverapp import Grid


def is_deployed(grid: Grid) -> bool:
    """Whether messages go to a SuperLink over the network."""
    return type(grid).__name__ == "HttpGrid"
