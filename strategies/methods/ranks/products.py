"""Rules that average products: the new pair is the best one for a weighted sum of the devices' B_k·A_k.

- `FlexLoRA` (Bai et al., NeurIPS 2024, §3.2): Σ p_k B_k A_k by examples, the singular values in B. The released code
  (alibaba/FederatedScope, branch FlexLoRA, commit 1cb1ab7) forms the product and takes a dense SVD; here it is found
  from the factors (`models.algebra.refactor`). There, a device of rank r trains with 16/r in front and gets B scaled by
  r/16; here the factor is α/R for all, so what a device starts with is the same part of the product.
- `HLoRA` (2025, arXiv 2503.00813): the same sum from the factors as here, the singular values in A, as in NVFlare's
  example of MedGemma (commit f3b7c1b).
- `RaFLoRA` (2026, arXiv 2602.13486): ranks up to the smallest r_k, from there to the next, and so on are rings; each
  ring's product is averaged over those who hold it, and the sum of the rings is refactored, √ of the values on either
  side.
- `FLoRIST` (Ramesh and Dass, MLSys 2026, 2506.09199): HLoRA's sum, of which only so many directions stay that they have
  a share of the energy Σ σ² of all of it, also of what R directions cannot have. The others begin anew at B = 0, so
  they can be trained; the paper sends fewer ranks.

A device of rank r begins the next round with the first r ranks, which are the r leading directions of the sum: the best
start that a truncation can give.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from models.algebra.refactor import SPARE, Factored, Split, refactored
from models.algebra.stack import Stacks, Who
from models.settings import Setting, more_than
from strategies.methods.ranks.base import ProductMethod

_NOTHING = 1e-6  # of the largest singular value: float32 says no more


class Refactored(ProductMethod):
    """The best pair of rank R for the devices' mean product."""

    SPLIT: ClassVar[Split] = "balanced"

    def joined(self, stacks: Stacks) -> tuple[Tensor, Tensor]:
        """Refactor weighted sums of products side by side."""
        who, weights = stacks.who, self.weights(stacks.who)
        # What devices began with, and some of the changes.
        spare = who.ranks[:SPARE]
        shape = len(stacks), who.rank + len(spare), stacks.a.shape[2]
        starts = stacks.room("starts", shape, stacks.a.dtype)
        torch.cat([stacks.a, stacks.right[:, : len(spare)] - stacks.a[:, spare]], 1, out=starts)
        factored = refactored(stacks, who.rank, weights, starts)
        counts = self.kept(factored, stacks)
        b, a = factored.pair(self.SPLIT)
        for place, kept in enumerate(counts):
            # A direction that the sum does not have would be zero on both sides and never learn.
            if kept < who.rank:
                b[place, :, kept:] = 0.0
                a[place, kept:] = stacks.a[place, kept:]
        return b, a

    def weights(self, who: Who) -> Tensor:
        """What each stacked rank counts: its device's share of all weights."""
        return who.shares

    def kept(self, factored: Factored, stacks: Stacks) -> list[int]:
        """How many leading directions of each stay: as many as there are, none where the sum is zero."""
        del stacks
        values = factored.values
        there: list[int] = (values > _NOTHING * values.amax(1, keepdim=True)).sum(1).tolist()
        return there


class FlexLoRA(Refactored):
    """The mean product, by its singular values, which B carries.

    Equation: U·Σ·Vᵀ is the best approximation of rank R of Σ pₖ·Bₖ·Aₖ, pₖ by examples; B = U·Σ, A = Vᵀ.

    Traps: the server needs every device's factors, so nothing that hides or clips them goes with it
    (docs/ranks.md).
    """

    SPLIT = "left"


class HLoRA(Refactored):
    """The mean product, by its singular values, which A carries.

    Equation: FlexLoRA's with B = U and A = Σ·Vᵀ.

    Traps: the server needs every device's factors, as with FlexLoRA.
    """

    SPLIT = "right"


class RaFLoRA(Refactored):
    """Every ring of ranks by itself over those who hold it.

    Equation: the best pair of rank R, values in equal parts on either side, for Σ over rings of ranks of Σ nₖ·Bₖ·Aₖ
    / Σ nₖ over the devices that hold the ring.

    Traps: the server needs every device's factors. A ring that one device holds is that device's alone.
    """

    def weights(self, who: Who) -> Tensor:
        """The device's share of those who hold the rank."""
        return who.shares_of_holders


class FLoRIST(HLoRA):
    """As many leading directions as have a share of the energy.

    Options: `energy` (0.9): that share.

    Equation: HLoRA's, of which as many leading directions stay as have a share e of Σ σ².

    Traps: the server needs every device's factors. Directions beyond them begin anew, so e near 1 is HLoRA and a small
    e forgets.
    """

    OPTIONS = {
        "energy": Setting(
            0.9, "share of the mean product's Σ σ² that the directions have that are kept; 1 is all", more_than(0, 1)
        ),
    }

    def kept(self, factored: Factored, stacks: Stacks) -> list[int]:
        """No more than the threshold wants."""
        there, energy = super().kept(factored, stacks), float(self.options["energy"])
        if energy == 1:  # whatever rounding says
            return there
        # All that is left out is no more than so many of the largest of it; twice, as that is only nearly known.
        most = min(stacks.b.shape[1], stacks.a.shape[2], len(stacks.who.ranks)) - stacks.who.rank
        leading, rest = factored.values.double().square().sum(1), (2 * factored.beyond).square()
        totals = leading, leading + most * rest if most > 0 else leading
        least, at_most = (factored.least_rank(energy, total).tolist() for total in totals)
        for place, stack in enumerate(stacks):
            if least[place] != at_most[place]:
                total = torch.tensor(stack.energy(self.weights(stacks.who)), dtype=torch.float64)
                least[place] = int(factored[place].least_rank(energy, total))
        return list(map(min, there, least))
