"""Selection: a round's choice among 100,000 known nodes, and DivFL's greedy over 1,000.

The first is what a strategy does in the phase "select" of a round: columns out of the table, the selector, the chosen
nodes. Losses that would be asked for are there at once: the probe's round trip depends on the devices. The limit is a
time, so the reference column holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from flwr.serverapp import Grid
from numpy.typing import NDArray

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.bench.shapes import RESNET_18
from benchmarks.clock import seconds
from benchmarks.document import Say
from models.algebra.plans import Plan
from models.device import threads
from models.networks.build import layout, submodel
from models.networks.spec import NetworkSpec
from models.randomness import generator
from protocol import Hello, NodeId, Objective, Scalar
from strategies import HALVING, Settings, Tier
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.method import Method
from strategies.nodes.patience import Patience
from strategies.round.requests import StateCache
from strategies.round.selection import SelectionRunner
from strategies.selection import selector
from strategies.selection.facility import distances, greedy, lazy
from strategies.selection.update_sketch import UpdateSketcher

NAME = "selection"
_LIMIT = 0.05  # seconds a round
_GREEDY_LIMIT = 0.1


def selection(
    say: Say = print, nodes: int = 100_000, clients: int = 1000, spec: NetworkSpec = RESNET_18, turns: int = 11
) -> list[Row]:
    """Measure selection.

    Args:
        say: takes progress.
        nodes: known nodes of the simple and utility selectors; one in a thousand is chosen.
        clients: of DivFL; one in ten is chosen.
        spec: the network whose differences are sketched.
        turns: of each measurement.
    """
    with threads(1):
        return [*_choices(say, nodes, spec, turns), *_facility(say, clients, turns), _sketch(say, spec, turns)]


def _choices(say: Say, count: int, spec: NetworkSpec, turns: int) -> list[Row]:
    few: Mapping[str, Scalar] = {}
    every: Mapping[str, Scalar] = {"selection-candidates": count, "selection-loss": "last"}
    cases = [
        ("uniform", few),
        ("by-size", few),
        ("by-size-replacement", few),
        ("pow-d", few),
        ("cpow-d", few),
        ("rpow-d", every),
        ("oort", few),
        ("utility", every),
    ]
    people = [Node(10**9 + i, Hello(node=3 * i + 1, examples=1 + i % 200)) for i in range(count)]
    tiers: dict[NodeId, Tier] = {node.id: HALVING[i % len(HALVING)] for i, node in enumerate(people)}
    rows = []
    for name, options in cases:
        say(f"selection: {name} among {count:,} nodes")
        round_ = _Rounds(name, options, people=people, tiers=tiers, spec=spec)
        pairs = [(seconds(round_), _LIMIT) for _ in range(turns)]
        what = f"{name}: one round over {count:,} known nodes / {1e3 * _LIMIT:.0f} ms"
        rows.append(row_of_turns(NAME, what, pairs, unit="ms", scale=1e3, limit=1.0))
    pairs = [(seconds(lambda: round_(list(people))), _LIMIT) for _ in range(turns)]
    what = "the same (utility), after somebody came or went / 50 ms"
    return [*rows, row_of_turns(NAME, what, pairs, unit="ms", scale=1e3, note="reported only")]


class _Rounds:
    """Chooses one in a thousand, round after round; every node has trained before."""

    def __init__(
        self,
        name: str,
        options: Mapping[str, Scalar],
        people: list[Node],
        tiers: Mapping[NodeId, Tier],
        spec: NetworkSpec,
    ) -> None:
        count = len(people)
        settings = Settings(nodes=count, fraction_train=0.001, selector=selector(name, options))
        self._chooser, self._people, self._tiers = SelectionRunner(settings, layout(spec)), people, tiers
        self._method = Method({})
        self._context = RoundContext(round_number=1, settings=settings, network=spec, layout=layout(spec))
        draws, table = generator(1, 0, "server", "benchmark"), self._chooser.history
        rows = table.rows([node.id for node in people])
        for column in ("loss", "loss_square", "seconds"):
            table.column(column)[rows] = draws.random(count)
        table.column("tier")[rows] = np.arange(count) % len(HALVING)
        table.column("round")[rows] = table.column("selected")[rows] = 1
        self._number = 1
        self()  # finds the nodes' rows once, as a run does

    def __call__(self, people: list[Node] | None = None) -> None:
        self._number += 1
        with patch("strategies.round.selection.GridProbe", _Answers):
            chosen = self._chooser.choose(
                cast(Grid, None),
                self._context.at(self._number),
                method=self._method,
                states=cast(StateCache, None),
                nodes=people or self._people,
                tiers=self._tiers,
                patience=cast(Patience, None),
                report=RoundReport(number=self._number),
            )
        assert len(chosen) == max(1, len(self._people) // 1000) or len({node.id for node, _ in chosen}) == len(chosen)


class _Answers:
    """Stands for the devices."""

    def __init__(self, **_: Any) -> None: ...

    def losses(self, positions: NDArray[np.intp], *, batch: int = 0, common: bool = False) -> NDArray[np.float64]:
        del batch, common
        return np.asarray(np.sin(positions.astype(float)) + 2)


def _kept(tier: Tier, round_number: int) -> Plan:
    del round_number
    return Plan(tier.rate)


def _objective(tier: Tier, round_number: int) -> Objective:
    del tier, round_number
    return Objective()


def _facility(say: Say, clients: int, turns: int) -> list[Row]:
    say(f"selection: facility location over {clients:,} clients")
    draws = generator(1, 0, "server", "benchmark vectors")
    centres = draws.normal(size=(max(2, clients // 50), 256))
    vectors = (centres[np.arange(clients) % len(centres)] + draws.normal(size=(clients, 256))).astype(np.float32)
    distance, chosen = distances(vectors), max(1, clients // 10)
    if lazy(distance, chosen).tolist() != greedy(distance, chosen).tolist():
        raise RuntimeError("lazy greedy picked other clients than greedy")
    pairs = [(seconds(lambda: lazy(distance, chosen)), _GREEDY_LIMIT) for _ in range(turns)]
    against = [(seconds(lambda: lazy(distance, chosen)), seconds(lambda: greedy(distance, chosen))) for _ in range(3)]
    asked = [(seconds(lambda: distances(vectors)), _GREEDY_LIMIT) for _ in range(turns)]
    what = f"{chosen} of {clients:,} clients"
    return [
        row_of_turns(
            NAME,
            f"DivFL: lazy greedy, {what} / 100 ms",
            pairs,
            unit="ms",
            scale=1e3,
            limit=1.0,
            note="distances known; the picks are those of brute-force greedy, checked in this run",
        ),
        row_of_turns(NAME, f"DivFL: times as fast as greedy, {what}", against, unit="ms", scale=1e3, at_least=True),
        row_of_turns(
            NAME,
            f"DivFL: distances of {clients:,} vectors of 256 / 100 ms",
            asked,
            unit="ms",
            scale=1e3,
            note="reported only; every round",
        ),
    ]


def _sketch(say: Say, spec: NetworkSpec, turns: int) -> Row:
    say("selection: sketches of differences")
    make, part = UpdateSketcher(layout(spec), "projected", 256, 1), submodel(spec, Plan(Fraction(1)))
    difference = torch.randn(part.numel, generator=torch.Generator().manual_seed(1))
    copied = torch.empty_like(difference)
    pairs = [
        (seconds(lambda: make.vector(part, difference)), seconds(lambda: copied.copy_(difference)))
        for _ in range(turns)
    ]
    what = f"DivFL: sketch of {part.numel:,} coordinates / copying them"
    return row_of_turns(NAME, what, pairs, unit="ms", scale=1e3, note="reported only; once for every accepted reply")
