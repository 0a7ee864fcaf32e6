"""A deployment says that its nodes compute elsewhere, and a simulation that they are its own: flwr's own grids."""

from __future__ import annotations

from typing import Any

from flwr.superlink.grid import http_grid, inmemory_grid

from server_app.flwr_patches.deployed import is_deployed
from server_app.flwr_patches.elsewhere import say_where_nodes_compute


def test_a_deployment_says_so() -> None:
    deployed: Any = http_grid.HttpGrid(token="of no use")
    assert not hasattr(deployed, "computes_elsewhere")
    assert is_deployed(deployed)
    assert say_where_nodes_compute(deployed)
    assert deployed.computes_elsewhere is True
    assert not hasattr(deployed, "simulated")


def test_a_simulation_says_the_other() -> None:
    simulated: Any = object.__new__(inmemory_grid.InMemoryGrid)
    assert not is_deployed(simulated)
    assert not say_where_nodes_compute(simulated)
    assert not hasattr(simulated, "computes_elsewhere")
    assert simulated.simulated is True
