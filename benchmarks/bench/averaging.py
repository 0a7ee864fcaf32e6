"""Averaging: 20 clients in five tiers, ResNet-18 shape, against memory bandwidth and against the authors' way.

Bytes that have to move: every upload is read (4 a coordinate) and added to a sum that does not stay in cache (8), and
the end reads previous, numerator and denominator and writes the result (16 a coordinate of the network). What the
memory does in that time is measured in turns with the averaging, by a sum of two arrays far larger than the caches.
Everything with one thread, as a run folds: simulated clients have the other cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.bench.meshgrid import meshgrid_average
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.bench.shapes import RESNET_18, Fleet, fleet
from benchmarks.clock import seconds
from benchmarks.document import Say
from models.algebra.average import PartialAverage
from models.algebra.submodel import Submodel, flatten
from models.networks.build import layout
from models.networks.spec import NetworkSpec

NAME = "averaging"
# Every window wraps: it starts two units before the end of its axis.
_SHIFT = -2


def averaging(
    say: Say = print, spec: NetworkSpec = RESNET_18, clients: int = 20, turns: int = 21, stream: int = 1 << 26
) -> list[Row]:
    """Measure the averaging.

    Args:
        say: takes progress.
        spec: the network.
        clients: in five tiers.
        turns: of each pair.
        stream: coordinates of each of the three arrays that measure bandwidth.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rows(say, spec, clients, turns, stream)
    finally:
        torch.set_num_threads(before)


def _rows(say: Say, spec: NetworkSpec, clients: int, turns: int, stream: int) -> list[Row]:
    leading, rolling = fleet(spec, clients), fleet(spec, clients, _SHIFT)
    uploads, whole = sum(part.numel for part in leading.parts), layout(spec).parameters
    case = f"{clients} clients, {whole:,} parameters"
    prefixes, windows = averaging_round(spec, leading), averaging_round(spec, rolling)
    bandwidth = _Bandwidth(stream)
    moved = 4 * uploads + 8 * uploads + 16 * whole
    limit, stated = 1.15, f"floor: {moved / 1e6:.0f} MB at the bandwidth of c = a + b on 3 x {4 * stream / 1e6:.0f} MB"

    say("averaging: in turns with a bandwidth measurement")
    pairs = [(seconds(prefixes), bandwidth.seconds_for(moved)) for _ in range(turns)]
    rows = [
        _row(f"{case} / memory bandwidth", pairs, limit=limit, note=stated),
        *_phases(say, spec, leading, bandwidth, turns),
    ]
    say("averaging: rolling windows in turns with leading ones")
    pairs = [(seconds(windows), seconds(prefixes)) for _ in range(turns)]
    rows.append(_row("rolling windows that wrap / leading windows", pairs, limit=2.0))
    say("averaging: the authors' way, five times")
    pairs = [
        (seconds(prefixes), seconds(lambda: meshgrid_average(leading.state, leading.parts, leading.differences)))
        for _ in range(5)
    ]
    rows.append(_row("authors' meshgrid way, times as long", pairs, limit=25.0, at_least=True))
    say("averaging: cutting the parts out")
    gather = _gather(leading)
    pairs = [(seconds(gather), bandwidth.seconds_for(8 * uploads)) for _ in range(turns)]
    rows.append(_row(f"gather of {clients} parts / memory bandwidth", pairs, note="reported only"))
    return rows


def _phases(say: Say, spec: NetworkSpec, case: Fleet, bandwidth: _Bandwidth, turns: int) -> list[Row]:
    """What the phases of a round take, each against the bytes that the floor counts for it."""
    say("averaging: its phases in turns with the bandwidth")
    average, whole = PartialAverage(layout(spec)), layout(spec).parameters
    state = {name: tensor.clone() for name, tensor in case.state.items()}
    replies = list(zip(case.parts, case.differences, strict=True))
    kinds = [[one for one in replies if (one[0].numel == whole) is full] for full in (True, False)]
    names = [f"its {len(kinds[0])} full replies, looked through and added"]
    names += [f"its {len(kinds[1])} smaller replies", "its end: sums to their places, division, the new state"]
    counted = [12 * sum(part.numel for part, _ in some) for some in kinds] + [16 * whole]

    def add(some: Sequence[tuple[Submodel, Tensor]]) -> None:
        for part, difference in some:
            average.add(part, difference)

    def end() -> None:
        average.finish(state, out=state)

    pairs = list[list[tuple[float, float]]]()
    for _ in range(turns + 1):  # the first finds the places
        average.reset()
        took = [seconds(partial(add, some)) for some in kinds] + [seconds(end)]
        pairs.append([(one, bandwidth.seconds_for(moved)) for one, moved in zip(took, counted, strict=True)])
    return [
        _row(f"{name} / the bytes counted for that", list(found), note="reported only")
        for name, found in zip(names, zip(*pairs[1:], strict=True), strict=True)
    ]


def _row(
    what: str, turns: list[tuple[float, float]], *, limit: float | None = None, at_least: bool = False, note: str = ""
) -> Row:
    return row_of_turns(NAME, what, turns, unit="ms", scale=1e3, limit=limit, at_least=at_least, note=note)


def averaging_round(spec: NetworkSpec, case: Fleet) -> Callable[[], dict[str, Tensor]]:
    """One round's averaging into the state itself, with buffers that live as long as a run's."""
    average = PartialAverage(layout(spec))
    state = {name: tensor.clone() for name, tensor in case.state.items()}

    def work() -> dict[str, Tensor]:
        average.reset()
        for part, difference in zip(case.parts, case.differences, strict=True):
            average.add(part, difference)
        return average.finish(state, out=state)

    work()  # finds the places once, as a run does
    return work


def _gather(case: Fleet) -> Callable[[], None]:
    buffers = [torch.empty(part.numel) for part in case.parts]

    def work() -> None:
        for part, buffer in zip(case.parts, buffers, strict=True):
            flatten(part.gather(case.state), out=buffer)

    work()
    return work


class _Bandwidth:
    """What the memory does, by c = a + b."""

    def __init__(self, coordinates: int) -> None:
        self._a, self._b, self._c = (torch.ones(coordinates) for _ in range(3))
        self.seconds_for(1)

    def seconds_for(self, count: int) -> float:
        """Seconds in which the memory moves so many bytes, at the present rate."""
        took = seconds(lambda: torch.add(self._a, self._b, out=self._c))
        return took * count / (12 * self._c.numel())
