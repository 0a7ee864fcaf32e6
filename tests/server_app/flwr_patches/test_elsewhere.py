"""A deployment says that its nodes compute elsewhere, and a simulation does not."""

from __future__ import annotations

from typing import Any

from flwr.superlink.grid import http_grid, inmemory_grid

from server_app.flwr_patches.elsewhere import say_where_nodes_compute


class HttpGrid:
    """Of a deployment."""


class InMemoryGrid:
    """Of a simulation."""


def test_a_deployment_says_so() -> None:
    deployed: Any = HttpGrid()
    simulated: Any = InMemoryGrid()
    assert say_where_nodes_compute(deployed)
    assert deployed.computes_elsewhere is True
    assert not say_where_nodes_compute(simulated)
    assert not hasattr(simulated, "computes_elsewhere")


def test_flwrs_grids_have_these_names_and_no_word_of_their_own() -> None:
    for grid in (http_grid.HttpGrid, inmemory_grid.InMemoryGrid):
        assert grid.__name__ in {"HttpGrid", "InMemoryGrid"}
        assert not hasattr(grid, "computes_elsewhere")
