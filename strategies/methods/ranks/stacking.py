"""FLoRA (Wang et al., NeurIPS 2024, §3.2): products are merged into the weights, and pairs begin anew every round.

A device of rank r trains a fresh pair beside the weight W that all of them have. The stacks [B_1 … B_K] and
[p_1·A_1; …; p_K·A_K] have the weighted sum of the products for theirs, of whatever rank, and it is added to W:

    W ← W + (α/R)·Σ p_k·B_k·A_k        exactly: nothing is cut off, and no device's rank is padded

Then A is drawn again, B is zero, and everybody's network is W: tiers differ in what they train, not in what they use.

So W is no base. It is part of the state, held and not trained: sent down every round, never up, averaged with nothing,
and in checkpoints. The paper sends the stacks instead, which every device merges itself. That is the smaller message as
long as Σ r_k < n·m/(n + m) for a layer of (m, n), and it needs devices that keep W and miss no round.

Also unlike the paper: all devices of a round begin with one A, drawn by (seed, round), of which each has the first r
rows, where there each draws its own; and the factor is α/R for all. The released code (ATP-1010/FederatedLLM, commit
7bea158) merges with α times the largest rank where clients trained with α over their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from models.adapters.adapter import Adapter
from models.adapters.low_rank import first_a
from models.algebra.average import PartialAverage
from models.algebra.factor_average import FactorAverage
from models.algebra.plans import Plan
from models.randomness import torch_generator
from protocol import Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.method import Tensors
from strategies.methods.ranks.base import RankMethod
from strategies.settings import Settings
from strategies.tiers.tier import Tier


class FLoRA(RankMethod):
    """The first ranks of fresh pairs; their products go into the weights.

    Equation: W ← W + (α/R)·Σ pₖ·Bₖ·Aₖ; then A is drawn anew and B is 0.

    Traps: W is sent down every round, so it is no small message; up go pairs only.
    """

    REFINES = True
    KEEPS_FACTORS = True
    EXACT_DOWN = True
    ONE_AGE = "products are averaged of factors beside one and the same pair"

    @classmethod
    def form(cls, adapter: Adapter, settings: Settings, options: Mapping[str, Scalar]) -> Adapter:
        """With the weights beside pairs in the state."""
        del settings, options
        return replace(adapter, merges=True)

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The tier's first ranks, beside fixed weights."""
        del node
        return replace(self.kept_plan(context, tier), fixed=True)

    def refine(
        self, context: RoundContext, before: Tensors, after: Tensors, average: PartialAverage, remembered: Tensors
    ) -> Tensors:
        """Merge and begin anew; a pair that nobody held stays as it was."""
        assert isinstance(average, FactorAverage)
        assert context.network.adapter is not None
        draws = torch_generator(context.settings.seed, context.round_number, "server", "fresh pairs")
        for pair in context.layout.pairs:
            fresh = first_a(context.layout.tensors[pair.a].shape, draws)
            if stack := average.stack(pair, before):
                shares, weight = stack.who.shares.to(stack.b.dtype), after[pair.weight]
                matrix = weight.flatten(1)  # of a convolution, kernels behind inputs, as A has them
                matrix.addmm_(stack.left * shares, stack.right, alpha=context.network.adapter.factor)
                weight.copy_(matrix.view(weight.shape))
                after[pair.a].copy_(fresh)
                after[pair.b].zero_()
        return remembered
