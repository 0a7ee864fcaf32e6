"""HetLoRA (Cho et al., EMNLP 2024, §3.2): zero padding, weighted by the norm of each device's product.

Ā = Σ w_k·pad(A_k), B̄ likewise, w_k = ‖B_k·A_k‖ / Σ_j ‖B_j·A_j‖ with Frobenius norms, pair by pair: long products, which
large ranks tend to have, count for more, and ranks that few hold shrink less than by plain zero padding. They still do:
the weights of a rank's holders do not sum to 1 (`ZeroPadding`). A rank that nobody with a product held stays as it
was. All other tensors are averaged by examples.

With `pruning` above 0 a device prunes itself: a term in its loss presses on the last of its ranks, and if their norms
have fallen after a round it gives them up, sends zeros there, and says its new rank (objective "self-pruning"). The
server remembers the rank of every node that said one, and plans no more for it; it believes a device nothing but that
its rank is now the next smaller one. What is evaluated of a tier stays as it was.

With ⌊γ·r⌋ a device of few ranks gives up one at a time. No code of the authors is known; what others release under the
name is zero padding with equal weights or by examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from models.adapters.adapter import MOST
from models.algebra.plans import Plan, kept_units
from models.algebra.rates import single
from models.algebra.stack import Stack, Stacks
from models.errors import SettingError
from models.settings import Setting, between
from protocol import Objective
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant
from strategies.exchange.update import AcceptedUpdate
from strategies.method import Values
from strategies.methods.ranks.base import ProductMethod
from strategies.tiers.tier import Tier


class HetLoRA(ProductMethod):
    """The first ranks, filled up with zeros and weighted by the norm of the product.

    Options: `pruning` (0): λ; 0 is none. `share` (0.9): γ. `least` (1): the rank that a device keeps in any case.

    Equation: A ← Σ wₖ·pad(Aₖ) and B likewise, with wₖ = ‖BₖAₖ‖ / Σ ‖BⱼAⱼ‖.

    Traps: the weights of a rank's holders do not sum to 1, so it still shrinks. The server sees every device's
    factors.
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {
        "pruning": Setting(
            0.0,
            "strength of the term by which a device may give up its last ranks (λ); 0: devices keep their ranks",
            between(0, 1e6),
        ),
        "share": Setting(
            0.9, "share of its ranks, rounded down, that such a device goes on with (γ)", between(0.01, 0.99)
        ),
        "least": Setting(1, "the rank that a device keeps in any case", between(1, MOST)),
    }

    def check(self, context: RoundContext) -> None:
        """Find what self-pruning does not go with.

        Raises:
            SettingError: devices would train on adversarial inputs, for which its term is not meant.
        """
        attacked = context.settings.work.adversarial
        if self.options["pruning"] and attacked is not None and attacked.weight:
            raise SettingError("adversarial", attacked.weight, "0 where devices prune themselves (hetlora-pruning)")

    def initial_values(self) -> Values:
        """Ranks of the nodes that gave some up."""
        return {"ranks": {}} if self.options["pruning"] else {}

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """Cross entropy, with the term where devices prune themselves."""
        del context, tier
        strength, share, least = (self.options[name] for name in ("pruning", "share", "least"))
        if not strength:
            return Objective()
        return Objective("self-pruning", {"strength": float(strength), "share": float(share), "least": int(least)})

    def plan_round(
        self, context: RoundContext, values: Values, participants: Sequence[Participant]
    ) -> tuple[list[Plan], Values]:
        """The tier's first ranks, or as many as the node has left."""
        ranks, full = values.get("ranks", {}), _full_rank(context)
        left = [Fraction(ranks.get(str(one.node.id), full), full) for one in participants]
        plans = [
            replace(self.plan(context, one.node, one.tier), rate=min(single(one.tier.rate), rate))
            for one, rate in zip(participants, left, strict=True)
        ]
        return plans, values

    def learnt(self, context: RoundContext, values: Values, counted: Sequence[AcceptedUpdate]) -> Values:
        """The ranks that devices have left."""
        if not self.options["pruning"]:
            return values
        full, ranks = _full_rank(context), dict(values["ranks"])
        for one in counted:
            held = kept_units(full, single(one.assignment.plan.rate))
            fewer = max(int(self.options["least"]), int(float(self.options["share"]) * held))
            if one.metrics.get("rank") == fewer < held:
                ranks[str(one.assignment.node.id)] = fewer
        return {"ranks": ranks}

    def joined(self, stacks: Stacks) -> tuple[Tensor, Tensor]:
        """The weighted sums, rank by rank."""
        pairs = [_weighted(stack) for stack in stacks]
        return torch.stack([b for b, _ in pairs]), torch.stack([a for _, a in pairs])


def _full_rank(context: RoundContext) -> int:
    assert context.network.adapter is not None  # there are pairs
    return context.network.adapter.rank


def norm_of_product(b: Tensor, a: Tensor) -> Tensor:
    """Frobenius norm of B·A from products of r x r: ‖B·A‖² = Σ (BᵀB)∘(AAᵀ), in float64."""
    left, right = b.double(), a.double()
    return (left.T @ left).mul(right @ right.T).sum().clamp_min(0).sqrt()


def _weighted(stack: Stack) -> tuple[Tensor, Tensor]:
    found = list(stack.factors())
    norms = torch.stack([norm_of_product(one.b, one.a) for one in found])
    if not norms.sum() > 0:  # nobody's product is anything: all B are zero
        norms = torch.ones_like(norms)
    b, a = torch.zeros_like(stack.b), torch.zeros_like(stack.a)
    counted = torch.zeros(len(a), dtype=torch.bool)
    for one, weight in zip(found, (norms / norms.sum()).tolist(), strict=True):
        b[:, one.ranks] += weight * one.b
        a[one.ranks] += weight * one.a
        counted[one.ranks] |= (one.b != 0).any(0) | (one.a != 0).any(1) if weight > 0 else torch.tensor(False)
    # With both sides zero a rank would never learn again.
    return torch.where(counted, b, stack.b), torch.where(counted[:, None], a, stack.a)
