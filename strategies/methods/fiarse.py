"""FIARSE (Wu, Wang, Wang, Liu, Su, Gao; NeurIPS 2024): submodels of the weights that are largest by magnitude.

A device of rate r trains the r·n of all n weights and biases (those of norms do not count: everybody has them) whose
magnitude reaches a threshold over the whole network. The mask is found anew every round, from nothing but the state, so
server and device agree on it without sending it. On the device the paper's gradient takes the mask's dependence on the
weight into account; that of the released code does not, by an oversight (`client_app.objectives.importance`). The
server averages every coordinate, unweighted, over those whose mask has it. The released code averages over those whose
difference is not zero there, which leaves out, beside what is masked, weights in the mask that happened not to move;
and it rounds r·n down, here it is rounded up.

A mask says which weights count, not which are stored: devices hold, send and compute whole tensors with zeros in them.
So MACs and bytes are those of the whole network. Reported parameters are those that count.
"""

from __future__ import annotations

from models.algebra.plans import Plan
from models.algebra.rates import single
from models.algebra.submodel import Submodel
from models.settings import Names, Setting
from models.variants.importance import masked
from protocol import Objective
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences, Tensors
from strategies.tiers.tier import Tier


class FIARSE(FlowerStrategy):
    """The largest weights; a tier's rate is their share.

    Options: `gradient` ("paper"): with the term for the mask's dependence on the weight, or "code": without it, as the
    released code trains.

    Equation: a device of rate r computes with w·[|w| ≥ θ], θ such that a share r of all weights is kept, and its
    gradient is multiplied by 1 + 2·|w|·θ/(|w| + θ)²; wⱼ ← wⱼ + Σ Δₖⱼ / |Hⱼ| over those whose mask has it.

    Traps: a mask saves neither bytes nor arithmetic. Rates are shares of weights, not of units.
    """

    OPTIONS = {
        "gradient": Setting(
            "paper",
            "`paper` has the term for the mask's dependence on the weight; `code` trains plainly masked, as the"
            " released code does, and masks at the least weight where everything is kept",
            Names(("paper", "code")),
        ),
    }
    PREFERENCES = Preferences(norm="static-batch")
    WIDTHS = False
    ONE_RATE = "are shares of all parameters"
    PER_COORDINATE = True
    ONE_AGE = "what a device held depends on the state that it began with, which is gone"

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The tier's share."""
        del node
        return self.kept_plan(context, tier)

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """The tier's share of what the state holds then."""
        del context
        return Plan(keep=single(tier.rate))

    def part(self, context: RoundContext, plan: Plan, state: Tensors) -> Submodel:
        """Everything, with the mask that the state gives."""
        return masked(super().part(context, plan, state), state, context.layout, plan.keep)

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """Cross entropy through the mask."""
        del context, tier
        code = self.options["gradient"] == "code"
        return Objective("importance-masked", {"gradient": "code"} if code else {})
