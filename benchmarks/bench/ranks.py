"""Ranks: what it costs the server to average products of low-rank factors in place of the factors.

A network of 12 layers, 768 wide, with pairs beside query, key, value and output: 48 pairs of 768 x 768. 20 clients hold
4, 8, 12 or 16 of 16 ranks, equal shares. Measured is a round of replies, from the first one added to the new state, in
turns with the plain average of the same bytes; both with one thread, as a run folds, in seconds of the processor, as
neither waits for anything but memory, and what else the machine does counts less so. What devices make of the factors
is what training makes of them: much in common, and a change of their own, a tenth as long.

Memory is that of a process of its own: how far its resident peak exceeds what it held before the first reply was added,
which is the state and everybody's replies.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from fractions import Fraction

import torch

from benchmarks.bench.resident import held, in_a_process, peak
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.clock import cpu_seconds
from benchmarks.document import Say
from models.adapters.adapter import Adapter
from models.algebra.average import PartialAverage
from models.algebra.axes import Along, Axis, Kind, Layout, TensorLayout
from models.algebra.factor_average import FactorAverage
from models.algebra.plans import Plan, submodel
from models.device import threads
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from strategies import METHODS, FlowerStrategy
from strategies.context import RoundContext

NAME = "ranks"
RULES = ("flexlora", "hlora", "raflora", "florist")
RANK = 16
_SHARES = tuple(Fraction(part, 4) for part in (4, 3, 2, 1))


def ranks(
    say: Say = print,
    width: int = 768,
    layers: int = 12,
    clients: int = 20,
    turns: int = 9,
    rules: tuple[str, ...] = RULES,
) -> list[Row]:
    """Measure a server's round.

    Args:
        say: takes progress.
        width: of every layer.
        layers: with four pairs each.
        clients: in four tiers.
        turns: of each pair.
        rules: names of methods that average products.
    """
    rows = []
    with threads(1):
        case = Case(width, layers, clients)
        plain = case.round(None)
        for name in rules:
            say(f"ranks: {name} in turns with the plain average")
            other = case.round(name)
            pairs = [(cpu_seconds(other), cpu_seconds(plain)) for _ in range(turns)]
            what = f"{name}: a round of {clients} clients, {4 * layers} pairs, ranks 4 to 16 / plain average"
            note = f"{case.bytes / 1e6:.0f} MB of factors; q, k, v, o"
            rows.append(row_of_turns(NAME, what, pairs, unit="ms", scale=1e3, limit=3.0, note=note))
        adapters = case.bytes
    say("ranks: memory")
    grown = in_a_process("benchmarks.bench.ranks", width, layers, clients)
    rows.append(
        Row(
            benchmark=NAME,
            what=f"{rules[0]}: peak growth of the process / everybody's factors",
            measured=grown / 1e6,
            reference=adapters / 1e6,
            unit="MB",
            ratio=grown / adapters,
            limit=4.0,
            note="growth of the resident peak over the state and the replies",
        )
    )
    return rows


class Case:
    """A state of pairs, and what every client made of its part of them.

    Attributes:
        bytes: of everybody's factors together.
    """

    def __init__(self, width: int, layers: int, clients: int) -> None:
        self.layout = layout_of_pairs(width, 4 * layers)
        draws = torch_generator(1, 0, "server", "benchmark")
        self._before = {
            name: torch.randn(tensor.shape, generator=draws) for name, tensor in self.layout.tensors.items()
        }
        tiers = [submodel(self.layout, Plan(share)) for share in _SHARES]
        self._parts = [tiers[i % len(tiers)] for i in range(clients)]
        self._differences = [0.1 * torch.randn(part.numel, generator=draws) for part in self._parts]
        self.bytes = 4 * sum(part.numel for part in self._parts)

    def round(self, rule: str | None) -> Callable[[], None]:
        """One round by a method, or by the plain average; run once already, as the rounds before."""
        average = PartialAverage(self.layout) if rule is None else FactorAverage(self.layout)
        after = {name: tensor.clone() for name, tensor in self._before.items()}
        method = None if rule is None else made(rule)

        def work() -> None:
            average.reset()
            for i, (part, difference) in enumerate(zip(self._parts, self._differences, strict=True)):
                average.add(part, difference, 1.0 + i, 1.0 + i)
            average.finish(self._before, out=after)
            if method is not None:
                method.refine(self.context(method), self._before, after, average, {})

        work()
        return work

    def context(self, method: FlowerStrategy) -> RoundContext:
        """Of a round, with these pairs in place of the method's own network's."""
        return RoundContext(
            round_number=1, settings=method.settings, network=method.network, layout=self.layout, saved_round=0
        )


def made(rule: str) -> FlowerStrategy:
    """A method, for its rule; the network that it is made with is of no account."""
    return METHODS[rule](NetworkSpec("mlp", (1, 4, 4), 2, widths=(8, 8), adapter=Adapter(rank=4)))


def layout_of_pairs(width: int, count: int) -> Layout:
    """So many pairs of full rank beside layers of width x width, and a head that everybody holds."""
    axes = {f"rank{i}": Axis(f"rank{i}", RANK, Kind.RANK) for i in range(count)}
    tensors: dict[str, TensorLayout] = {"head": TensorLayout(shape=(width,), dims=(None,))}
    for name in axes:
        tensors[f"{name}.b"] = TensorLayout(shape=(width, RANK), dims=(None, Along(name)))
        tensors[f"{name}.a"] = TensorLayout(shape=(RANK, width), dims=(Along(name), None))
    return Layout(axes, tensors)


def grown(width: int, layers: int, clients: int) -> int:
    """A round in this process: how far its resident peak exceeds the start."""
    with threads(1):
        case = Case(width, layers, clients)
        before = held()
        case.round(RULES[0])
        return peak() - before


if __name__ == "__main__":
    print(json.dumps(grown(*map(int, sys.argv[1:]))))
