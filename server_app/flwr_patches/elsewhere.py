"""A deployment's grid says that its nodes compute elsewhere (`server_app.ahead`), any other that they are simulated.

flwr's own have no word for it. A simulation's nodes are the run's own, and are waited for while they start
(`strategies.nodes.manager`). Those of a deployment may be on this machine all the same, as in `flotilla federation`:
nobody can tell from a grid.
"""

from __future__ import annotations

from flwr.serverapp import Grid

from server_app.flwr_patches.deployed import is_deployed


def say_where_nodes_compute(grid: Grid) -> bool:
    """Apply this to a grid; returns whether it is a deployment's."""
    deployed = is_deployed(grid)
    vars(grid).update({"computes_elsewhere" if deployed else "simulated": True})
    return deployed
