"""FSLoRA (Fang et al., 2025, arXiv 2501.19389 v3): a device trains a random r of the R ranks.

In every round each device draws r ranks of every pair without replacement, and computes with B·S·A, where the sketch
S = (R/r)·diag(drawn) makes the product of the part, on average over draws, that of the whole (§3.1). The server adds
Σ_k Δ_k/K to A and B, over *all* K devices of the round, as in the paper's analysis, so a rank that few drew moves by
little. What is evaluated of a tier is its first ranks: by symmetry none is better.

In the released code (commit ac24177) parameters are selected by names that are compared whole with a part of a name, so
none is ever masked and all devices train all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from models.adapters.adapter import Adapter
from models.algebra.average import PartialAverage
from protocol import Scalar
from strategies.context import RoundContext
from strategies.method import Tensors
from strategies.methods.dropout import FederatedDropout
from strategies.methods.ranks.base import RankMethod, shares_of_holders
from strategies.settings import Settings


class RandomRanks(FederatedDropout, RankMethod):
    """Independent random ranks; the mean over everybody.

    Equation: A ← A + Σ ΔAₖ / K over *all* K devices of the round, and B likewise; a device computes with B·S·A, S =
    (R/r)·diag(drawn).

    Traps: a rank that few drew moves by little, so it learns slowly where most devices are small.
    """

    BY_EXAMPLES = False
    PER_WIDTH = False
    REFINES = True

    @classmethod
    def form(cls, adapter: Adapter, settings: Settings, options: Mapping[str, Scalar]) -> Adapter:
        """With α/r in front of a part of rank r, which is (R/r)·α/R."""
        del settings, options
        return replace(adapter, sketched=True)

    def refine(
        self, context: RoundContext, before: Tensors, after: Tensors, average: PartialAverage, remembered: Tensors
    ) -> Tensors:
        """From the mean step of the holders to that of all."""
        for name, share in shares_of_holders(average, context.layout).items():
            after[name].sub_(before[name]).mul_(share).add_(before[name])
        return remembered
