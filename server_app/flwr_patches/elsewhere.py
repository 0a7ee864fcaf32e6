"""A deployment's grid says that its nodes compute elsewhere (`server_app.ahead`); flwr's own has no word for it.

They may be on this machine all the same, as in `flotilla federation`: nobody can tell from a grid.
"""

from __future__ import annotations

from flwr.serverapp import Grid

from server_app.flwr_patches.deployed import is_deployed


def say_where_nodes_compute(grid: Grid) -> bool:
    """Apply this to a deployment's grid; returns whether it did."""
    if not is_deployed(grid):
        return False
    vars(grid).update(computes_elsewhere=True)
    return True
