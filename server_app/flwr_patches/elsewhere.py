"""A deployment's grid says that its nodes compute elsewhere (`server_app.ahead`); flwr's own has no word for it."""

from __future__ import annotations

from flwr.serverapp import Grid


def say_where_nodes_compute(grid: Grid) -> bool:
    """Apply this to a deployment's grid; returns whether it did."""
    if type(grid).__name__ != "HttpGrid":
        return False
    vars(grid).update(computes_elsewhere=True)
    return True
