"""Random parts: federated dropout, and FedEcover's draw without replacement.

- `FederatedDropout` (Caldas et al. 2018, §3): every node gets ceil(r·n) random units of every width axis, drawn anew
  each round. Axes are shared through shortcuts, so the residual stream stays aligned (drawing per layer, as public
  code does, adds unrelated channels and handicaps the method).
- `FedEcover` (ICDE 2025): units are drawn without replacement from one pool per axis that all nodes share and that is
  refilled when it is exhausted, so the network is covered quickly; widths are int(r·n). The server adds η·(mean
  difference), η multiplied by `decay` every `decay-every` rounds until round `decay-until`. The Scaler is on: the
  released code (junesnow86/FedEcover, commit b23b572) multiplies by 1/r after every layer, in evaluation too, and has
  no norms that are trained; here a norm follows, which takes the factor out again. With `norm = "none"` ours scales
  in training only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.algebra.axes import Axis
from models.algebra.plans import Plan, kept_units
from models.algebra.rates import rate_of
from models.randomness import generator
from models.settings import Setting, between
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import ClientUpdate
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences, Values
from strategies.tiers.tier import Tier


class FederatedDropout(FlowerStrategy):
    """Independent random units; the mean over holders.

    Equation: θⱼ ← Σ θₖⱼ / |Hⱼ| over the devices k in Hⱼ, whose ⌈rₖ·n⌉ random units of every width axis have
    coordinate j.

    Traps: no small network is trained as such, so what a small tier keeps may score no better than a guess. Draws
    that are not shared through shortcuts, as in public code, make it a worse method.
    """

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """Random units of every width axis; everything for a full tier."""
        if tier.rate == 1:
            return Plan()
        draws = generator(context.settings.seed, context.round_number, node.id, "units")
        units = []
        for axis in width_axes(context):
            chosen = draws.choice(axis.size, kept_units(axis.size, rate_of(tier.rate, axis.group)), replace=False)
            units.append((axis.name, tuple(sorted(chosen.tolist()))))
        return Plan(tier.rate, units=tuple(units))


class FedEcover(FederatedDropout):
    """Units without replacement from a shared pool.

    Options: `server-learning-rate` (1.0), `decay` (0.9), `decay-every` (10), `decay-until` (200); 0 rounds is no decay.

    Equation: θⱼ ← θⱼ + η(t)·Σ Δₖⱼ / |Hⱼ| over the devices k in Hⱼ, who have drawn coordinate j, with η(t) =
    η·decay^⌊min(t - 1, until) / every⌋ in round t.

    Traps: the schedule of η was made for runs of hundreds of rounds. The authors' network has no norms; with one
    the Scaler's factor is taken out again.
    """

    PREFERENCES = Preferences(scaler=True)
    OPTIONS = {
        "server-learning-rate": Setting(1.0, "η of the server at round 1", between(1e-6, 10)),
        "decay": Setting(0.9, "what η is multiplied by every so many rounds", between(1e-6, 1)),
        "decay-every": Setting(10, "so many; 0 is never", between(0, 10**9)),
        "decay-until": Setting(200, "the round from which η stays as it is", between(0, 10**9)),
    }

    def initial_values(self) -> Values:
        """Every pool is full; what stands here is what is left in those that were drawn from."""
        return {"pools": {}}

    def plan_round(
        self, context: RoundContext, values: Values, participants: Sequence[Participant]
    ) -> tuple[list[Plan], Values]:
        """The next units of every axis' pool; everything for a full tier, which empties no pool."""
        pools: dict[str, list[int]] = {name: list(pool) for name, pool in values["pools"].items()}
        plans = []
        for one in participants:
            if one.tier.rate == 1:
                plans.append(Plan())
                continue
            draws = generator(context.settings.seed, one.round_number, one.node.id, "units")
            units = []
            for axis in width_axes(context):
                wanted = kept_units(axis.size, rate_of(one.tier.rate, axis.group), floor=True)
                taken, pools[axis.name] = _drawn(axis.size, pools.get(axis.name), wanted, draws)
                units.append((axis.name, taken))
            plans.append(Plan(one.tier.rate, units=tuple(units), floor=True))
        return plans, {"pools": pools}

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """The leading int(r·n) units: by symmetry as good as any, and the same every round."""
        del context
        return Plan(tier.rate, floor=True)

    def weigh(self, context: RoundContext, assignment: TrainAssignment, update: ClientUpdate) -> tuple[float, float]:
        """The mean over holders, times the server's learning rate of this round."""
        numerator, denominator = super().weigh(context, assignment, update)
        return numerator * self.server_learning_rate(context.round_number), denominator

    def server_learning_rate(self, round_number: int) -> float:
        """η of a 1-based round."""
        every = int(self.options["decay-every"])
        decays = min(round_number - 1, int(self.options["decay-until"])) // every if every else 0
        return float(self.options["server-learning-rate"]) * float(self.options["decay"]) ** decays


def width_axes(context: RoundContext) -> list[Axis]:
    """The axes that are drawn from, in declared order."""
    return [axis for axis in context.layout.axes.values() if axis.kind.cut]


def _drawn(
    size: int, pool: Sequence[int] | None, wanted: int, draws: np.random.Generator
) -> tuple[tuple[int, ...], list[int]]:
    """Take units from an axis' pool; when it runs out it is refilled with those that this draw does not hold.

    Returns:
        The units, ascending, and what is left in the pool.
    """
    left = list(range(size)) if pool is None else list(pool)
    taken: list[int] = []
    waiting: list[int] = []
    while len(taken) < wanted:
        if not left:  # the new cycle has all units; those that this draw holds already wait until it is over
            waiting = list(taken)
            left = [unit for unit in range(size) if unit not in taken]
        chosen = set(draws.choice(len(left), min(len(left), wanted - len(taken)), replace=False).tolist())
        taken += [unit for i, unit in enumerate(left) if i in chosen]
        left = [unit for i, unit in enumerate(left) if i not in chosen]
    return tuple(sorted(taken)), sorted(left + waiting)
