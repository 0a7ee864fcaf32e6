"""Measured tiers: the largest that fits a device's memory and meets the deadline, and when that changes.

A device says what it measured of itself (`protocol.profile`): bytes of memory, and for every tier the bytes and the
seconds of a training step. What a round in a tier t would take is then

    seconds(t) = steps(t) · step(t) · slowdown + coordinates(t) · seconds_per_coordinate + transport_seconds

slowdown is how much slower than measured its last round computed, seconds_per_coordinate its own seconds beside
computing per coordinate that crossed the wire, transport_seconds what passed beside its own seconds until the reply was
there: 1, 0 and 0 until it has trained. Only a reply in time teaches them; of one that did not come nothing is known but
that it did not.

transport_seconds are the transfer, the wait until the device asks for work, and the start of a process for it. One
number cannot be taken apart into what grows with the tier and what does not, so it counts in full for every tier: laid
on the coordinates, the seconds of waiting would keep a device in a small tier for ever. A larger tier that the transfer
does not allow is then tried, missed, and tried again ever more seldom.

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

MOST_REQUIRED_ROUNDS = 64


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
        coordinates: how many cross the wire in a round.
        memory: bytes that the device has free.
        transfer_seconds: of a round's arrays, where the bandwidth is known beforehand; else none.
    """

    steps: Sequence[float]
    step: Sequence[float]
    needed: Sequence[float]
    coordinates: Sequence[float]
    memory: float
    transfer_seconds: Sequence[float] = ()

    @staticmethod
    def of(
        figures: Mapping[str, float], names: Sequence[str], steps: Sequence[float], coordinates: Sequence[float]
    ) -> Demand:
        """Read what a device said of the tiers of these names."""
        step, needed = ([figures.get(kind + name, inf) for name in names] for kind in (STEP, NEEDED))
        return Demand(
            steps=steps, step=step, needed=needed, coordinates=coordinates, memory=figures.get(MEMORY_AVAILABLE, 0.0)
        )

    def fits(self, position: int) -> bool:
        """Whether a tier fits the memory."""
        return self.needed[position] <= self.memory

    def seconds(
        self, position: int, slowdown: float = 1.0, seconds_per_coordinate: float = 0.0, transport_seconds: float = 0.0
    ) -> float:
        """What a round in a tier is expected to take."""
        training = self.steps[position] * self.step[position] * slowdown
        moving = self.coordinates[position] * seconds_per_coordinate
        transfer = self.transfer_seconds[position] if self.transfer_seconds else 0.0
        return training + moving + transport_seconds + transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTier:
    """The tier of a device, and what was learnt on the way to it.

    Attributes:
        position: position of its tier, 0 is the widest.
        fitting_rounds: rounds in a row in which the next larger tier would have fitted.
        required_rounds: how many of them it takes.
        slowdown: computing time of its last round over what was measured.
        seconds_per_coordinate: seconds beside computing, per coordinate that crossed the wire.
        transport_seconds: seconds beside its own, until its last reply was there.
    """

    position: int
    fitting_rounds: int = 0
    required_rounds: int = 1
    slowdown: float = 1.0
    seconds_per_coordinate: float = 0.0
    transport_seconds: float = 0.0

    def seconds(self, demand: Demand, position: int) -> float:
        """What a round in a tier is expected to take this device."""
        return demand.seconds(position, self.slowdown, self.seconds_per_coordinate, self.transport_seconds)


def first(demand: Demand, rule: Rule) -> DeviceTier | None:
    """The tier that a device begins with; None if the memory is too small for all."""
    able = [position for position in range(len(demand.steps)) if demand.fits(position)]
    if not able:
        return None
    quick = [position for position in able if demand.seconds(position) <= rule.margin * rule.deadline]
    return DeviceTier(position=quick[0] if quick else able[-1], required_rounds=rule.patience)


def smaller(current: DeviceTier, demand: Demand) -> int | None:
    """The next smaller tier that fits the memory; None if there is none."""
    return next(
        (position for position in range(current.position + 1, len(demand.steps)) if demand.fits(position)), None
    )


def missed(current: DeviceTier, demand: Demand) -> DeviceTier:
    """After a round whose reply did not come: the next smaller tier that fits the memory, at once."""
    position = smaller(current, demand)
    return replace(
        current,
        position=current.position if position is None else position,
        fitting_rounds=0,
        required_rounds=min(2 * current.required_rounds, MOST_REQUIRED_ROUNDS),
    )


def replied(
    current: DeviceTier,
    demand: Demand,
    rule: Rule,
    *,
    position: int,
    seconds: float,
    computing: float,
    steps: float,
    transport_seconds: float | None = None,
    at_most: float | None = None,
) -> DeviceTier:
    """After a round whose reply came.

    Args:
        current: before it.
        demand: of the tiers.
        rule: what tiers are given by.
        position: of the tier that it trained in.
        seconds: that the round took this device.
        computing: of them, in training steps.
        steps: how many.
        transport_seconds: seconds beside those, until the reply was there; None is not known, and what was known stays.
        at_most: a bound on them where they are not known, for the reply may have been there for long; it counts where
            nothing is known yet, or more than it.
    """
    expected = steps * demand.step[position]
    slowdown = computing / expected if 0 < expected < inf and computing > 0 else current.slowdown
    coordinates = demand.coordinates[position]
    seconds_per_coordinate = max(0.0, seconds - computing) / coordinates if coordinates else 0.0
    if transport_seconds is None:
        known = current.transport_seconds
        transport_seconds = known if at_most is None else min(known or at_most, at_most)
    now = replace(
        current,
        slowdown=slowdown,
        seconds_per_coordinate=seconds_per_coordinate,
        transport_seconds=transport_seconds,
    )
    larger = current.position - 1
    roomy = larger >= 0 and demand.fits(larger) and now.seconds(demand, larger) <= rule.margin * rule.deadline
    fitting_rounds = current.fitting_rounds + 1 if roomy else 0
    if fitting_rounds >= current.required_rounds:
        return replace(now, position=larger, fitting_rounds=0)
    return replace(now, fitting_rounds=fitting_rounds)


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
        self._tiers: dict[NodeId, DeviceTier] = {}
        self._demand: dict[NodeId, Demand] = {}
        self.changed = False

    def position(self, node: NodeId, demand: Demand) -> int:
        """Position of a device's tier, which it begins with or has by now.

        Raises:
            ValueError: its memory is too small for every tier.
        """
        self._demand[node] = demand
        current = self._tiers.get(node) or first(demand, self._rule)
        if current is not None and not demand.fits(current.position):  # it has less than when it was given this tier
            position = smaller(current, demand)  # what was learnt of it, its caution too, is as true as before
            current = None if position is None else replace(current, position=position, fitting_rounds=0)
        if current is None:
            least = min(demand.needed)
            raise ValueError(
                f"tier = 'auto': no tier fits {demand.memory / 1e6:.0f} MB of free memory "
                + ("(the device told no figures)" if least == inf else f"(the smallest needs {least / 1e6:.0f} MB)")
            )
        self._tiers[node] = current
        return current.position

    def missed(self, node: NodeId) -> None:
        """Note that a device's reply did not come."""
        if node in self._tiers and node in self._demand:
            self._keep(node, missed(self._tiers[node], self._demand[node]))

    def replied(
        self,
        node: NodeId,
        tier: str,
        metrics: Mapping[str, float],
        transport_seconds: float | None = None,
        *,
        at_most: float | None = None,
    ) -> None:
        """Note what a device's reply said, and how long it took beside the device's own seconds (see `replied`)."""
        if node in self._tiers and node in self._demand:
            current = replied(
                self._tiers[node],
                self._demand[node],
                self._rule,
                position=self._names.index(tier),
                seconds=metrics.get("seconds", 0.0),
                computing=metrics.get("seconds-computing", 0.0),
                steps=metrics.get("steps", 0.0),
                transport_seconds=transport_seconds,
                at_most=at_most,
            )
            self._keep(node, current)

    def _keep(self, node: NodeId, current: DeviceTier) -> None:
        self.changed = self.changed or current.position != self._tiers[node].position
        self._tiers[node] = current

    def checkpoint(self) -> list[list[Any]]:
        """What the next tiers depend on, beside what the devices say, as JSON."""
        return [[node, asdict(current)] for node, current in self._tiers.items()]

    def restore(self, values: Sequence[Sequence[Any]]) -> None:
        """Take up a `checkpoint`."""
        self._tiers = {node: DeviceTier(**current) for node, current in values}
        self.changed = True
