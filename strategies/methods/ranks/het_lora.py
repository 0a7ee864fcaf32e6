"""HetLoRA (Cho et al., EMNLP 2024, §3.2): zero padding, weighted by the norm of each device's product.

Ā = Σ w_k·pad(A_k), B̄ likewise, w_k = ‖B_k·A_k‖ / Σ_j ‖B_j·A_j‖ with Frobenius norms, pair by pair: long products, which
large ranks tend to have, count for more, and ranks that few hold shrink less than by plain zero padding. They still do:
the weights of a rank's holders do not sum to 1 (`ZeroPadding`). A rank that nobody with a product held stays as it
was. All other tensors are averaged by examples.

Not in here is the paper's self-pruning, a term in the device's loss after which it may give up its last ranks. No code
of the authors is known; what others release under the name is zero padding with equal weights or by examples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.algebra.stack import Stack
from strategies.methods.ranks.base import ProductMethod


class HetLoRA(ProductMethod):
    """The first ranks, filled up with zeros and weighted by the norm of the product."""

    def joined(self, stack: Stack, mean: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The weighted sums, rank by rank."""
        del mean
        found = list(stack.factors())
        norms = torch.stack([norm_of_product(one.b, one.a) for one in found])
        if not norms.sum() > 0:  # nobody's product is anything: all B are zero
            norms = torch.ones_like(norms)
        b, a = torch.zeros_like(stack.b), torch.zeros_like(stack.a)
        counted = torch.zeros(len(a), dtype=torch.bool)
        for one, weight in zip(found, (norms / norms.sum()).tolist(), strict=True):
            b[:, one.ranks] += weight * one.b
            a[one.ranks] += weight * one.a
            counted[one.ranks] |= weight > 0
        # With both sides zero a rank would never learn again.
        return torch.where(counted, b, stack.b), torch.where(counted[:, None], a, stack.a)


def norm_of_product(b: Tensor, a: Tensor) -> Tensor:
    """Frobenius norm of B·A from products of r x r: ‖B·A‖² = Σ (BᵀB)∘(AAᵀ), in float64."""
    left, right = b.double(), a.double()
    return (left.T @ left).mul(right @ right.T).sum().clamp_min(0).sqrt()
