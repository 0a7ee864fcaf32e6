"""Random parts: federated dropout, and FedEcover's draw without replacement.

- `FederatedDropout` (Caldas et al. 2018, §3): every node gets ceil(r·n) random units of every width axis, drawn anew
  each round. Axes are shared through shortcuts, so the residual stream stays aligned (drawing per layer, as public
  code does, adds unrelated channels and handicaps the method).
- `FedEcover` (ICDE 2025): units are drawn without replacement from one pool per axis that all nodes share and that is
  refilled when it is exhausted, so the network is covered quickly; widths are int(r·n). The server adds η·(mean
  difference), η multiplied by `decay` every `decay-every` rounds until round `decay-until`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from models.algebra.axes import Axis, Kind
from models.algebra.plans import Plan, kept_units
from models.randomness import generator
from models.settings import Setting, between
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import ClientUpdate
from strategies.round.runner import PartialStrategy
from strategies.tiers.tier import Tier


class FederatedDropout(PartialStrategy):
    """Independent random units; the mean over holders."""

    def plan(self, node: Node, tier: Tier, round_number: int) -> Plan:
        """Random units of every width axis; everything for a full tier."""
        if tier.rate == 1:
            return Plan()
        draws = generator(self.settings.seed, round_number, node.id, "units")
        units = []
        for axis in self.width_axes():
            chosen = draws.choice(axis.size, kept_units(axis.size, tier.rate), replace=False)
            units.append((axis.name, tuple(sorted(chosen.tolist()))))
        return Plan(tier.rate, units=tuple(units))

    def width_axes(self) -> list[Axis]:
        """The axes that are drawn from, in declared order."""
        return [axis for axis in self.layout.axes.values() if axis.kind is Kind.WIDTH]


class FedEcover(FederatedDropout):
    """Units without replacement from a shared pool.

    Options: `server-learning-rate` (1.0), `decay` (0.9), `decay-every` (10), `decay-until` (200); 0 rounds is no decay.
    """

    OPTIONS = {
        "server-learning-rate": Setting(1.0, "η of the server at round 1", between(1e-6, 10)),
        "decay": Setting(0.9, "what η is multiplied by every so many rounds", between(1e-6, 1)),
        "decay-every": Setting(10, "so many; 0 is never", between(0, 10**9)),
        "decay-until": Setting(200, "the round from which η stays as it is", between(0, 10**9)),
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._pools: dict[str, list[int]] = {}
        super().__init__(*arguments, **options)

    def plan(self, node: Node, tier: Tier, round_number: int) -> Plan:
        """The next units of every axis' pool; everything for a full tier, which empties no pool."""
        if tier.rate == 1:
            return Plan()
        draws = generator(self.settings.seed, round_number, node.id, "units")
        units = tuple((axis.name, self._draw(axis, tier.rate, draws)) for axis in self.width_axes())
        return Plan(tier.rate, units=units, floor=True)

    def kept_plan(self, tier: Tier, round_number: int) -> Plan:
        """The leading int(r·n) units: by symmetry as good as any, and the same every round."""
        del round_number
        return Plan(tier.rate, floor=True)

    def weigh(self, sent: TrainAssignment, reply: ClientUpdate, round_number: int) -> tuple[float, float]:
        """The mean over holders, times the server's learning rate of this round."""
        numerator, denominator = super().weigh(sent, reply, round_number)
        return numerator * self.server_learning_rate(round_number), denominator

    def server_learning_rate(self, round_number: int) -> float:
        """η of a 1-based round."""
        every = int(self.options["decay-every"])
        decays = min(round_number - 1, int(self.options["decay-until"])) // every if every else 0
        return float(self.options["server-learning-rate"]) * float(self.options["decay"]) ** decays

    def _draw(self, axis: Axis, rate: Fraction, draws: np.random.Generator) -> tuple[int, ...]:
        """Take units from the axis' pool; when it runs out it is refilled with those that this draw does not hold."""
        wanted = kept_units(axis.size, rate, floor=True)
        pool = self._pools.setdefault(axis.name, list(range(axis.size)))
        taken: list[int] = []
        waiting: list[int] = []
        while len(taken) < wanted:
            if not pool:  # the new cycle has all units; those that this draw holds already wait until it is over
                waiting = list(taken)
                pool.extend(unit for unit in range(axis.size) if unit not in taken)
            chosen = set(draws.choice(len(pool), min(len(pool), wanted - len(taken)), replace=False).tolist())
            taken += [unit for i, unit in enumerate(pool) if i in chosen]
            pool[:] = [unit for i, unit in enumerate(pool) if i not in chosen]
        pool[:] = sorted(pool + waiting)
        return tuple(sorted(taken))

    def method_state(self) -> dict[str, Any]:
        """What is left in every pool."""
        return {"pools": {name: list(pool) for name, pool in self._pools.items()}}

    def restore_method_state(self, values: Mapping[str, Any]) -> None:
        """Take up the pools of a checkpoint."""
        self._pools = {name: [int(unit) for unit in pool] for name, pool in values["pools"].items()}
