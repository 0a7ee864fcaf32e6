"""Runs of IFCA that begin with given states, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from client_app.app import app
from flotilla.local.grid import LocalGrid, contexts
from server_app.config.resolve import RunConfig
from strategies import FlowerStrategy
from tests.support import configured

Tensors = dict[str, Tensor]

ONE: dict[str, Any] = {"method": "fedavg", "tiers": "a:1", "widths": "12", "num_clients": 6, "batch_size": 64}


def started(states: Sequence[Tensors] = (), **keys: Any) -> tuple[FlowerStrategy, LocalGrid, RunConfig]:
    """A strategy with the given states, and its nodes."""
    config = configured(**{**ONE, **keys})
    strategy = config.strategy()
    for i, state in enumerate(states):
        for name, tensor in state.items():
            strategy.runner.pieces.clusters.states[i].tensors[name].copy_(tensor)
    return strategy, LocalGrid(app, contexts(config.flat, config.num_clients)), config


def states_of(strategy: FlowerStrategy) -> list[Tensors]:
    return [
        {n: t.clone() for n, t in state.tensors.items()} for state in strategy.runner.pieces.clusters.states.values()
    ]


def drawn(count: int, **keys: Any) -> list[Tensors]:
    """The states that a run with so many clusters begins with."""
    return states_of(started(clustering="ifca", ifca_clusters=count, **keys)[0])


def after(states: Sequence[Tensors], rounds: int = 2, **keys: Any) -> tuple[list[Tensors], FlowerStrategy]:
    """The states after some rounds of IFCA, and the strategy."""
    strategy, grid, _ = started(states, clustering="ifca", ifca_clusters=len(states), **keys)
    for number in range(1, rounds + 1):
        strategy.run_round(grid, number)
    return states_of(strategy), strategy


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def members(strategy: FlowerStrategy) -> list[list[Any]]:
    return [list(ids) for ids in strategy.report.clusters["assignments"].values()]
