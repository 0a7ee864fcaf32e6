"""Refactoring: the best pair of rank R for a sum of products Σ w_k·B_k·A_k, which is never formed.

With the stacks B̂ = [B_1 … B_K] (m x s) and Â = [w_1·A_1; …; w_K·A_K] (s x n) the sum is B̂·Â. QR of both stacks and the
singular values of a core of at most s x s give its best approximation (Eckart and Young, 1936) in s² (m + n) steps:

    B̂ = Q·C,  Âᵀ = P·D   →   B̂·Â = Q·(C·Dᵀ)·Pᵀ,   C·Dᵀ = U·S·Vᵀ   →   (Q·U)·S·(P·V)ᵀ

Of a stack many times as tall as R only the leading R directions are wanted. Subspace iteration finds them with products
by the stacks (Halko, Martinsson, Tropp, 2011, algorithm 4.4), from what the clients' A have in common: after training
that is nearly all of it, so one step is usually enough. Where it has not settled after a few (a flat spectrum) the core
is taken. Both are deterministic, signs included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.algebra.stack import Stack

Split = Literal["balanced", "left", "right"]
SPLITS = ("balanced", "left", "right")

SPARE = 2  # directions beyond R that the iteration carries along
_TALL = 3  # a stack of so many times R + spare ranks is iterated on
_STEPS = 5  # at most, before the core is taken
_SETTLED = 1e-4  # sine of the angle by which the leading directions may still be off, by their values


@dataclass(frozen=True, slots=True, kw_only=True)
class Factored:
    """U·diag(values)·Vᵀ, by falling values.

    Attributes:
        left: U, (m, R), orthonormal columns; those of directions that cannot be are zero.
        values: singular values, (R,).
        right: Vᵀ, (R, n), orthonormal rows; those of directions that cannot be are zero.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def pair(self, split: Split = "balanced") -> tuple[Tensor, Tensor]:
        """B of (m, R) and A of (R, n) whose product this is.

        Args:
            split: who carries the values: "balanced" is B = U·√S, A = √S·Vᵀ; "left" B = U·S; "right" A = S·Vᵀ.
        """
        if split == "left":
            return self.left * self.values, self.right.clone()
        if split == "right":
            return self.left.clone(), self.right * self.values[:, None]
        roots = self.values.sqrt()
        return self.left * roots, self.right * roots[:, None]

    def least_rank(self, energy: float, total: float | None = None) -> int:
        """How many leading values have this share of the energy Σ σ², at least 1; all R where not all R have it.

        Args:
            energy: the share.
            total: Σ σ² of the whole sum, `Stack.energy`; None: that of the R values here.
        """
        squares = self.values.double().square().cumsum(0)
        wanted = energy * (float(squares[-1]) if total is None else total)
        return min(1 + int((squares < wanted).sum()), len(self.values))


def refactor(stack: Stack, rank: int, weights: Tensor | None = None, start: Tensor | None = None) -> Factored:
    """The best approximation of Σ_k B_k·diag(w_k)·A_k by `rank` directions; exact where its rank is no more.

    Args:
        stack: the devices' factors.
        rank: R, at least 1; of more than min(m, n) the last directions are none, with values of 0.
        weights: w, one per stacked rank, (s,), none negative; None: each device's share of all weights.
        start: rows that span about what the leading directions of the rows do, (any number, n), for the iteration.

    Returns:
        R directions; beyond the sum's own rank the values are 0 to rounding.

    Raises:
        ValueError: a rank below 1.
    """
    most = min(stack.left.shape[0], stack.right.shape[1])
    if rank < 1:
        raise ValueError(f"rank = {rank}: allowed is at least 1")
    weights = stack.who.shares if weights is None else weights
    each = weights.to(stack.left.dtype)[:, None]
    found = None
    if len(each) >= _TALL * (rank + SPARE) and most >= rank + SPARE:
        basis = stack.transposed_times(_signs(stack, rank), each) if start is None else start.T
        found = _iterated(stack, rank, each, basis)
    return _signed(*(_by_core(stack, rank, each) if found is None else found))


def _by_core(stack: Stack, rank: int, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, right = stack.whole()
    roots = weights.sqrt()  # on either side, so that neither outweighs the other
    q, c = torch.linalg.qr(left * roots.T)
    p, d = torch.linalg.qr((right * roots).T)
    u, values, vh = torch.linalg.svd(c @ d.T, full_matrices=False)
    missing = rank - len(values)  # fewer ranks than asked for were stacked, or can be
    if missing > 0:
        u, values = torch.cat([u, u.new_zeros(len(u), missing)], 1), torch.cat([values, values.new_zeros(missing)])
        vh = torch.cat([vh, vh.new_zeros(missing, vh.shape[1])])
    return q @ u[:, :rank], values[:rank], vh[:rank] @ p.T


def _iterated(stack: Stack, rank: int, weights: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Subspace iteration with Rayleigh and Ritz's step; None where it does not settle.

    A step brings the leading directions nearer by (σ_{R+1}/σ_R)² at least, and by what angle the last one moved them is
    seen; the two tell how far off they may be.
    """
    tiny = torch.finfo(weights.dtype).tiny
    for _ in range(_STEPS):
        q = torch.linalg.qr(stack.times(basis, weights)).Q
        p, d = torch.linalg.qr(stack.transposed_times(q, weights))
        v, values, uh = torch.linalg.svd(d, full_matrices=False)
        found = p @ v
        leading = found[:, :rank]
        moved = (_outside(leading, basis) * (values[:rank] / values[0].clamp_min(tiny))).norm()
        nearer = values[rank] / values[rank - 1].clamp_min(tiny) if len(values) > rank else values.new_ones(())
        if float(moved * nearer.square()) <= _SETTLED:
            return q @ uh[:rank].T, values[:rank], leading.T
        basis = found
    return None


def _outside(vectors: Tensor, basis: Tensor) -> Tensor:
    """What of some vectors a basis, orthonormal or not, does not span."""
    gram = basis.T @ basis
    gram.diagonal().add_(1e-6 * gram.diagonal().max())  # a basis with too many vectors is one too
    lower, _ = torch.linalg.cholesky_ex(gram)
    return torch.addmm(vectors, basis, torch.cholesky_solve(basis.T @ vectors, lower), alpha=-1)


def _signs(stack: Stack, rank: int) -> Tensor:
    """Signs of (m, R + spare) to mix rows with: the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (stack.left.shape[0], rank + SPARE), generator=generator)
    return (2 * signs - 1).to(stack.left.dtype)


def _signed(left: Tensor, values: Tensor, right: Tensor) -> Factored:
    """With the largest entry of every column of U positive, the first one of equals."""
    largest = left.abs().argmax(dim=0, keepdim=True)
    signs = left.gather(0, largest).sign()
    signs[signs == 0] = 1.0
    return Factored(left=left * signs, values=values, right=right * signs.T)
