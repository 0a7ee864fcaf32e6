"""Zero padding, as it is commonly done: the denominator counts devices that did not hold the rank.

Every device's A and B are filled up with zeros to rank R and all are averaged, by examples: Ā = Σ p_k·pad(A_k), with
p_k the device's share of *everybody's* examples. What a device sends of a rank it never had is zero, so ranks that few
hold shrink every round by the share of those who do not: with all devices idle, rank j of the product falls to (N_j/N)²
of itself. A rank that nobody held in a round stays as it was: with A and B zero it would never learn again. It is how
unlike ranks are averaged where FedIT (Zhang et al., ICASSP 2024) is extended to them, and what much released code calls
HetLoRA, which has other weights (`HetLoRA`).

`padded` = "differences" fills up what devices changed instead, so that idle devices change nothing and ranks that few
hold only learn more slowly. The released code of FSLoRA has its baseline so.
"""

from __future__ import annotations

from models.algebra.average import PartialAverage
from models.settings import Names, Setting
from strategies.context import RoundContext
from strategies.method import Tensors
from strategies.methods.ranks.base import RankMethod, shares_of_holders


class ZeroPadding(RankMethod):
    """The first ranks, averaged over everybody.

    Options: `padded` ("values"): what is filled up with zeros, "values" or "differences".

    Equation: A ← Σ pₖ·pad(Aₖ) and B likewise, with pₖ the share of device k in *everybody's* examples.

    Traps: ranks that few hold shrink every round, even if nobody trains: it is a baseline to beat.
    """

    OPTIONS = {
        "padded": Setting(
            "values",
            "what is filled up with zeros: `values`, as it is commonly done, so that ranks that few hold shrink every"
            " round; `differences`, so that they only learn more slowly",
            Names(("values", "differences")),
        ),
    }
    REFINES = True

    def refine(
        self, context: RoundContext, before: Tensors, after: Tensors, average: PartialAverage, remembered: Tensors
    ) -> Tensors:
        """From the mean of the holders to that of all, who count as zero."""
        values = self.options["padded"] == "values"
        for name, share in shares_of_holders(average, context.layout).items():
            start = 0.0 if values else before[name]
            share = share.masked_fill(share == 0, 1.0)  # nobody held it
            after[name].sub_(start).mul_(share).add_(start)
        return remembered
