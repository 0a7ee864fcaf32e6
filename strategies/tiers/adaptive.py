"""Measured tiers: the largest that fits a device's memory and meets the deadline, and when that changes.

A device says what it measured of itself (`protocol.profile`): bytes of memory, and for every tier the bytes and the
seconds of a training step. What a round in a tier t would take is then

    seconds(t) = steps(t) · step(t) · load + moved(t) · pace + rest

load is how much slower than measured its last round computed, pace its own seconds beside computing per coordinate
moved, rest what passed beside its own seconds until the reply was there: 1, 0 and 0 until it has trained. Only a reply
in time teaches them; of one that did not come nothing is known but that it did not.

rest is the line, the wait until the device asks for work, and the start of a process for it. One number cannot be taken
apart into what grows with the tier and what does not, so it counts in full for every tier: laid on the coordinates, the
seconds of waiting would keep a device in a small tier for ever. A larger tier that the line does not carry is then
tried, missed, and tried again ever more seldom.

- First tier: the largest whose memory fits and whose seconds are at most margin · deadline; else the smallest whose
  memory fits. Without one the device is not used.
- Down: one tier at once when a reply is missing (late, lost, or an error such as want of memory).
- Up: one tier when it would have taken at most margin · deadline in `patience` of the device's rounds in a row. Every
  miss doubles the rounds that this device needs for it, up to 64, so that a device on the edge does not swing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from protocol import NodeId
from protocol.profile import MEMORY_AVAILABLE, NEEDED, STEP

LONGEST_WAIT = 64


@dataclass(frozen=True, slots=True)
class Rule:
    """What tiers are given by.

    Attributes:
        deadline: seconds that a round waits for replies.
        margin: share of it that a tier may be expected to take, in (0, 1].
        patience: rounds in a row in which a larger tier must have fitted before it is given, at least 1.
    """

    deadline: float = 3600.0
    margin: float = 0.8
    patience: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the tiers ask of one device, widest first; infinite seconds or bytes where they are not known.

    Attributes:
        steps: training steps of a round.
        step: seconds of one, as the device measured them.
        needed: bytes of memory.
        moved: coordinates that cross the wire in a round.
        memory: bytes that the device has free.
        line: seconds of a round's transfer, where the line is known beforehand; else none.
    """

    steps: Sequence[float]
    step: Sequence[float]
    needed: Sequence[float]
    moved: Sequence[float]
    memory: float
    line: Sequence[float] = ()

    @staticmethod
    def of(
        figures: Mapping[str, float], names: Sequence[str], steps: Sequence[float], moved: Sequence[float]
    ) -> Demand:
        """Read what a device said of the tiers of these names."""
        step, needed = ([figures.get(kind + name, inf) for name in names] for kind in (STEP, NEEDED))
        return Demand(steps=steps, step=step, needed=needed, moved=moved, memory=figures.get(MEMORY_AVAILABLE, 0.0))

    def fits(self, place: int) -> bool:
        """Whether a tier fits the memory."""
        return self.needed[place] <= self.memory

    def seconds(self, place: int, load: float = 1.0, pace: float = 0.0, rest: float = 0.0) -> float:
        """What a round in a tier is expected to take."""
        line = self.line[place] if self.line else 0.0
        return self.steps[place] * self.step[place] * load + self.moved[place] * pace + rest + line


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The tier of a device, and what was learnt on the way to it.

    Attributes:
        place: position of its tier, 0 is the widest.
        calm: rounds in a row in which the next larger tier would have fitted.
        wait: how many of them it takes.
        load: computing time of its last round over what was measured.
        pace: seconds beside computing, per coordinate moved.
        rest: seconds beside its own, until its last reply was there.
    """

    place: int
    calm: int = 0
    wait: int = 1
    load: float = 1.0
    pace: float = 0.0
    rest: float = 0.0

    def seconds(self, demand: Demand, place: int) -> float:
        """What a round in a tier is expected to take this device."""
        return demand.seconds(place, self.load, self.pace, self.rest)


def first(demand: Demand, rule: Rule) -> Held | None:
    """The tier that a device begins with; None if the memory is too small for all."""
    able = [place for place in range(len(demand.steps)) if demand.fits(place)]
    if not able:
        return None
    quick = [place for place in able if demand.seconds(place) <= rule.margin * rule.deadline]
    return Held(place=quick[0] if quick else able[-1], wait=rule.patience)


def smaller(held: Held, demand: Demand) -> int | None:
    """The next smaller tier that fits the memory; None if there is none."""
    return next((place for place in range(held.place + 1, len(demand.steps)) if demand.fits(place)), None)


def missed(held: Held, demand: Demand) -> Held:
    """After a round whose reply did not come: the next smaller tier that fits the memory, at once."""
    place = smaller(held, demand)
    return replace(held, place=held.place if place is None else place, calm=0, wait=min(2 * held.wait, LONGEST_WAIT))


def replied(
    held: Held,
    demand: Demand,
    rule: Rule,
    *,
    place: int,
    seconds: float,
    computing: float,
    steps: float,
    rest: float | None = None,
) -> Held:
    """After a round whose reply came.

    Args:
        held: before it.
        demand: of the tiers.
        rule: what tiers are given by.
        place: of the tier that it trained in.
        seconds: that the round took this device.
        computing: of them, in training steps.
        steps: how many.
        rest: seconds beside those, until the reply was there; None is not known, and what was known stays.
    """
    expected = steps * demand.step[place]
    load = computing / expected if 0 < expected < inf and computing > 0 else held.load
    pace = max(0.0, seconds - computing) / demand.moved[place] if demand.moved[place] else 0.0
    now = replace(held, load=load, pace=pace, rest=held.rest if rest is None else rest)
    larger = held.place - 1
    roomy = larger >= 0 and demand.fits(larger) and now.seconds(demand, larger) <= rule.margin * rule.deadline
    calm = held.calm + 1 if roomy else 0
    if calm >= held.wait:
        return replace(now, place=larger, calm=0)
    return replace(now, calm=calm)


class AdaptiveTiers:
    """The tiers of all measured devices.

    Args:
        names: of the tiers, widest first.
        rule: what tiers are given by.

    Attributes:
        changed: whether somebody's tier changed since this was last set to False.
    """

    def __init__(self, names: Sequence[str], rule: Rule) -> None:
        self._names, self._rule = tuple(names), rule
        self._held: dict[NodeId, Held] = {}
        self._demand: dict[NodeId, Demand] = {}
        self.changed = False

    def place(self, node: NodeId, demand: Demand) -> int:
        """Position of a device's tier, which it begins with or has by now.

        Raises:
            ValueError: its memory is too small for every tier.
        """
        self._demand[node] = demand
        held = self._held.get(node) or first(demand, self._rule)
        if held is not None and not demand.fits(held.place):  # it has less than when it was given this tier
            place = smaller(held, demand)  # what was learnt of it, its caution too, is as true as before
            held = None if place is None else replace(held, place=place, calm=0)
        if held is None:
            least = min(demand.needed)
            raise ValueError(
                f"tier = 'auto': no tier fits {demand.memory / 1e6:.0f} MB of free memory "
                + ("(the device told no figures)" if least == inf else f"(the smallest needs {least / 1e6:.0f} MB)")
            )
        self._held[node] = held
        return held.place

    def missed(self, node: NodeId) -> None:
        """Note that a device's reply did not come."""
        if node in self._held and node in self._demand:
            self._keep(node, missed(self._held[node], self._demand[node]))

    def replied(self, node: NodeId, tier: str, metrics: Mapping[str, float], rest: float | None = None) -> None:
        """Note what a device's reply said, and how long it took beside the device's own seconds, if that is known."""
        if node in self._held and node in self._demand:
            held = replied(
                self._held[node],
                self._demand[node],
                self._rule,
                place=self._names.index(tier),
                seconds=metrics.get("seconds", 0.0),
                computing=metrics.get("seconds-computing", 0.0),
                steps=metrics.get("steps", 0.0),
                rest=rest,
            )
            self._keep(node, held)

    def _keep(self, node: NodeId, held: Held) -> None:
        self.changed = self.changed or held.place != self._held[node].place
        self._held[node] = held

    def checkpoint(self) -> list[list[Any]]:
        """What the next tiers depend on, beside what the devices say, as JSON."""
        return [[node, asdict(held)] for node, held in self._held.items()]

    def restore(self, values: Sequence[Sequence[Any]]) -> None:
        """Take up a `checkpoint`."""
        self._held = {node: Held(**held) for node, held in values}
        self.changed = True
