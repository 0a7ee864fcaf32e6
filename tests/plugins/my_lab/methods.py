"""A method: every tier trains a window of the widths that begins at a unit of the user's choice."""

from flotilla.models.algebra.plans import Plan
from flotilla.models.settings import Setting, between
from flotilla.protocol import Objective
from flotilla.strategies import FlowerStrategy


class FromOffset(FlowerStrategy):
    """HeteroFL's parts, but not from the first unit on; trained with smoothed labels of this package."""

    OPTIONS = {
        "offset": Setting(1, "the first unit that a part has", between(0, 1000)),
        "smoothing": Setting(0.1, "share of a label that goes to all classes", between(0, 1)),
    }

    def plan(self, context, node, tier):
        return Plan(tier.rate, shift=self.options["offset"])

    def kept_plan(self, context, tier):
        return Plan(tier.rate, shift=self.options["offset"])

    def objective(self, context, tier):
        return Objective(f"{__package__}.objectives:smoothed", {"share": self.options["smoothing"]})
