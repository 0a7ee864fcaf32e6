"""The virtual clock: what a request would have taken the device that it went to, and what becomes of its reply.

    seconds = latency + bytes down / downlink + steps · (step + 3 · batch · macs / rate) · slowness + bytes up / uplink
              + latency

slowness is the device's own spread, the round's jitter and, in a busy spell, the slowdown. Steps, bytes and multiply-
accumulates are those of the run: the training really takes place, only its time is virtual. All draws come from
(seed, round, node, purpose), so a resumed run sees the same devices, and so do two methods in a comparison.

A round lasts until its last reply, or until the deadline if a reply is late or lost; with over-selection until it has
as many replies as it needs, which are then taken in the order of their virtual arrival. Time does not pass between
rounds, nor while selectors, clusters or statistics ask devices; the server takes none. Of a part that is trained at
several widths in turn (FjORD) the widest counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf
from typing import Any

import numpy as np
from flwr.app import Message
from torch import Tensor

from models.algebra.plans import Plan
from models.cost import cost_of, training_bytes
from models.errors import SettingError
from models.networks.spec import NetworkSpec
from models.randomness import generator
from protocol import NodeId, Reply, WireError
from protocol.profile import MEMORY_AVAILABLE, NEEDED, STEP
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.update import ClientUpdate, Rejected
from strategies.tiers.tier import apportion
from strategies.virtual.devices import Device, VirtualFleet

_BACKWARD = 3  # a training step over a forward pass


class Late(Rejected):
    """A reply that does not come in time, or not at all."""


@dataclass(frozen=True, slots=True)
class _Took:
    """What a request took a device.

    Attributes:
        seconds: until its reply arrived.
        computing: of them, in training steps.
        lost: why there is no reply; "" if there is.
    """

    seconds: float
    computing: float
    lost: str = ""


class VirtualClock(Stateful):
    """Devices by node, and the time that they take.

    Args:
        fleet: the classes of devices.
        network: the global network.
        nodes: how many nodes the run expects; ids from 0 have the classes in these proportions, others draw.
        seed: of the run.
        deadline: seconds that a round waits for replies.
        batch_size: examples a step.
        whole: whether devices get the whole state, which takes memory too.

    Attributes:
        deadline: see above.
        elapsed: virtual seconds since the run began.
        seconds: of the round under way, so far.
    """

    begins = True

    def __init__(
        self,
        fleet: VirtualFleet,
        network: NetworkSpec,
        nodes: int,
        seed: int,
        deadline: float,
        batch_size: int,
        *,
        whole: bool,
    ) -> None:
        self._fleet, self._network, self._seed = fleet, network, seed
        self.deadline, self._batch, self._whole = deadline, batch_size, whole
        self.elapsed = self.seconds = 0.0
        self._shares = fleet.shares(nodes)
        counts = apportion(self._shares, nodes)
        ordered = [device for device, count in zip(fleet.devices, counts, strict=True) for _ in range(count)]
        order = generator(seed, 0, "server", "fleet").permutation(nodes)
        self._devices: dict[NodeId, Device] = {i: ordered[place] for i, place in enumerate(order.tolist())}

    def device(self, node: NodeId) -> Device:
        """The class of a node."""
        if node not in self._devices:
            shares = np.array([float(share) for share in self._shares])
            drawn = generator(self._seed, 0, node, "device").choice(len(shares), p=shares / shares.sum())
            self._devices[node] = self._fleet.devices[int(drawn)]
        return self._devices[node]

    def online(self, node: NodeId, round_number: int) -> bool:
        """Whether a node is there in a round."""
        return self._happens(self.device(node).available, round_number, node, "available")

    def slowness(self, node: NodeId, round_number: int) -> float:
        """How many times as long as its class computes a node takes in a round."""
        device = self.device(node)
        spread = device.spread * generator(self._seed, 0, node, "speed").standard_normal()
        jitter = device.jitter * generator(self._seed, round_number, node, "jitter").standard_normal()
        busy = self._happens(device.busy, round_number // device.spell, node, "busy")
        return float(exp(spread + jitter) * (device.slowdown if busy else 1.0))

    def figures(self, node: NodeId, names: Sequence[str], plans: Sequence[Plan]) -> dict[str, float]:
        """What the node would have measured before round 1, by the names in `protocol.profile`."""
        device, slowness = self.device(node), self.slowness(node, 0)
        found = {MEMORY_AVAILABLE: 1e6 * device.memory_mb}
        for name, plan in zip(names, plans, strict=True):
            found[NEEDED + name] = float(self._needed(plan))
            found[STEP + name] = self._step(device, plan) * slowness
        return found

    def begin(self, round_number: int, state: Tensor) -> None:
        """Begin a round."""
        del round_number, state
        self.seconds = 0.0

    def timed(self, assignment: TrainAssignment, round_number: int, update: ClientUpdate) -> ClientUpdate:
        """A reply whose "seconds" and "seconds-computing" are what it took the virtual device.

        Raises:
            Late: it would not have come before the deadline, or not at all.
        """
        steps = update.metrics.get("steps", 0.0)
        took = self._took(assignment, round_number, steps, update.bytes_down, update.bytes_up)
        self._until(took.seconds)
        if took.lost:
            raise Late(took.lost)
        if took.seconds > self.deadline:
            raise Late(f"late: {took.seconds:.3g} virtual seconds")
        virtual = {"seconds": took.seconds, "seconds-computing": took.computing}
        return replace(update, metrics={**update.metrics, **virtual})

    def foresee(
        self, assignment: TrainAssignment, round_number: int, message: Message | None, bytes_down: int
    ) -> float:
        """Virtual seconds until a message would arrive; infinite if it would not, or is no reply to be used."""
        if message is None or message.has_error():
            return inf
        try:
            reply = Reply.from_record(message.content)
        except WireError:
            return inf
        assert reply.array is not None  # or it would be no reply
        steps = reply.metrics.get("steps", 0.0)
        took = self._took(assignment, round_number, steps, bytes_down, len(reply.array.data))
        return inf if took.lost or took.seconds > self.deadline else took.seconds

    def until_known(self, assignment: TrainAssignment, update: ClientUpdate | None, bytes_down: int) -> float:
        """Virtual seconds until it is known what became of a request: a reply, an error, or nothing by the deadline.

        Args:
            assignment: what was asked, and in which round.
            update: the reply; None if there is none that can be read.
            bytes_down: encoded bytes of the request's arrays.
        """
        steps, up = (0.0, 0) if update is None else (update.metrics.get("steps", 0.0), update.bytes_up)
        return min(self._took(assignment, assignment.asked_in, steps, bytes_down, up).seconds, self.deadline)

    def learn(self, outcome: RoundOutcome) -> None:
        """End the round: its virtual seconds, and those since the run began."""
        if outcome.waited_in_vain:
            self._until(self.deadline)
        self.elapsed += self.seconds
        outcome.report.virtual = {"round": self.seconds, "elapsed": self.elapsed}

    def checkpoint(self) -> Saved:
        """The time, and whose it is."""
        return {}, {"elapsed": self.elapsed, "fleet": self._fleet.digest}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`.

        Raises:
            SettingError: it is of another fleet.
        """
        del tensors
        if values.get("fleet") != self._fleet.digest:
            raise SettingError(
                "simulated-devices", self._fleet.digest, f"the fleet of the run to resume ({values.get('fleet')})"
            )
        self.elapsed = values["elapsed"]

    def _took(self, assignment: TrainAssignment, round_number: int, steps: float, down: int, up: int) -> _Took:
        node, plan = assignment.node.id, assignment.plan
        device = self.device(node)
        latency, received = 1e-3 * device.latency_ms, 8e-6 * down / device.down_mbit
        if self._needed(plan) > 1e6 * device.memory_mb:
            return _Took(2 * latency + received, 0.0, f"error: out of memory on this virtual {device.name}")
        if self._happens(device.failure, round_number, node, "failure"):
            return _Took(inf, 0.0, f"late: this virtual {device.name} was not heard of again")
        computing = steps * self._step(device, plan) * self.slowness(node, round_number)
        return _Took(2 * latency + received + computing + 8e-6 * up / device.up_mbit, computing)

    def _until(self, seconds: float) -> None:
        self.seconds = max(self.seconds, min(seconds, self.deadline))

    def _happens(self, chance: float, number: int, node: NodeId, purpose: str) -> bool:
        if chance in (0.0, 1.0):
            return bool(chance)
        return bool(generator(self._seed, number, node, purpose).random() < chance)

    def _step(self, device: Device, plan: Plan) -> float:
        macs = cost_of(self._network, _alike(plan), every_exit=True).macs
        return 1e-3 * device.step_ms + _BACKWARD * self._batch * macs / (1e9 * device.gmacs)

    def _needed(self, plan: Plan) -> int:
        return training_bytes(self._network, _alike(plan), self._batch, whole=self._whole)


def _alike(plan: Plan) -> Plan:
    """A plan of the same cost; all of a method's windows and draws have one."""
    bases = None if plan.bases is None else tuple(range(len(plan.bases)))
    return replace(plan, shift=0, units=(), bases=bases)
