"""Which operations a benchmark's time goes to, as PyTorch's profiler sees it: `bench NAME … --operations`.

One thread, one process, one profile of each; so it says shares, not what a round takes. What no operation took is
Python's, the messages', and the profiler's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from flwr.serverapp import Grid
from torch.profiler import ProfilerActivity, profile

from benchmarks.bench.averaging import averaging_round
from benchmarks.bench.floor import BareClient
from benchmarks.bench.pfl import keys_of, started, steps_of
from benchmarks.bench.shapes import RESNET_18, fleet
from benchmarks.bench.steps import TierSteps, examples_of
from benchmarks.bench.training import round_of
from benchmarks.document import table
from benchmarks.images import images
from client_app.app import app
from data import Split
from flotilla.local.grid import LazyContexts, LocalGrid
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from protocol import Work
from server_app.config.resolve import resolve
from strategies.tiers.tier import HALVING

LEAST = 0.01  # share of an operation that has a line
OTHERS, OUTSIDE, ALL = "other operations", "outside of operations", "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Where the time of a piece of work went.

    Attributes:
        operations: name → seconds of their own, without those that they call.
        everything: seconds in all.
    """

    operations: Mapping[str, float]
    everything: float


def times_of(work: Callable[[], object]) -> Times:
    """Profile one call."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        began = perf_counter()
        work()
        took = perf_counter() - began
    own = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    return Times(operations={name: one for name, one in own.items() if name.startswith("aten::")}, everything=took)


def text_of(columns: Mapping[str, Times], count: int) -> str:
    """A table: a line for each operation that matters in some column, in milliseconds of one of so many units.

    Args:
        columns: what was profiled, by what it is called.
        count: units of work in each.
    """
    names = {name for one in columns.values() for name, own in one.operations.items() if own >= LEAST * one.everything}
    (first, *_) = columns.values()
    lines = [
        (name.removeprefix("aten::"), [one.operations.get(name, 0.0) for one in columns.values()])
        for name in sorted(names, key=lambda name: -first.operations.get(name, 0.0))
    ]
    known = [sum(one.operations.values()) for one in columns.values()]
    shown = [sum(own[i] for _, own in lines) for i in range(len(columns))]
    everything = [one.everything for one in columns.values()]
    lines += [
        (OTHERS, [one - other for one, other in zip(known, shown, strict=True)]),
        (OUTSIDE, [one - other for one, other in zip(everything, known, strict=True)]),
        (ALL, everything),
    ]
    cells = [
        [name, *(f"{1e3 * one / count:.2f} ({one / of:.0%})" for one, of in zip(own, everything, strict=True))]
        for name, own in lines
    ]
    return table(["operation, ms", *columns], cells, markdown=True)


def of_averaging(spec: NetworkSpec = RESNET_18, clients: int = 20, turns: int = 10) -> str:
    """A round of `PartialAverage`, by operation."""
    work = averaging_round(spec, fleet(spec, clients))
    found = times_of(lambda: [work() for _ in range(turns)])
    return f"**averaging**: a round of {clients} replies\n\n{text_of({'averaging': found}, turns)}"


def of_pfl(clients: int = 1000, fraction: float = 0.01) -> str:
    """An optimiser step of pfl's benchmark, by operation: of our round in this process, and of the bare loop."""
    with images() as found:
        config = resolve(keys_of(found, clients, fraction))
        steps = steps_of(config)
        bare = BareClient(steps)
        strategy, grid = started(config), LocalGrid(app, LazyContexts(config.flat, clients))
        count = steps.clients * -(-steps.examples // steps.batch_size)
        columns = {"in process": _of_rounds(strategy.run_round, grid), "bare loop": _of_bare(bare, steps.clients)}
    return f"**pfl**: an optimiser step, of {count}\n\n{text_of(columns, count)}"


def _of_rounds(run_round: Callable[[Grid, int], object], grid: Grid) -> Times:
    run_round(grid, 1)  # meets the nodes, makes the model
    return times_of(lambda: run_round(grid, 2))


def _of_bare(bare: BareClient, clients: int) -> Times:
    bare.train(0)

    def train() -> None:
        for client in range(clients):
            bare.train(client)

    return times_of(train)


def of_training(network: NetworkSpec = RESNET_18, examples: int = 50, batch_size: int = 10) -> str:
    """An optimiser step of the ResNet in float32, the mean of five tiers, by operation: ours, and the bare loop."""
    asked = round_of(network, len(HALVING), examples, Work(batch_size=batch_size))
    tiers = [TierSteps(asked, rate) for rate in asked.rates]
    own = examples_of(network, examples, 0)
    count = len(tiers) * -(-examples // batch_size)

    def train(way: Callable[[TierSteps, tuple[Split, torch.Generator]], None]) -> None:
        for tier in tiers:
            way(tier, (own, torch_generator(0, 0, "bench", "batches")))

    columns = {}
    ways = {"ours": lambda tier, one: tier.ours([one]), "bare loop": lambda tier, one: tier.eager(*one)}
    for name, way in ways.items():
        train(way)  # fills caches
        columns[name] = times_of(partial(train, way))
    return f"**training**: an optimiser step of five tiers of the ResNet, of {count}\n\n{text_of(columns, count)}"


PROFILED: Mapping[str, Callable[[], str]] = {"averaging": of_averaging, "training": of_training, "pfl": of_pfl}


def operations(names: Sequence[str]) -> str:
    """Profile some of `PROFILED`, with one thread; a table each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return "\n\n".join(PROFILED[name]() for name in names)
    finally:
        torch.set_num_threads(before)
