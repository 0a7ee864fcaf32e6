"""Refactoring: the best pair of rank R for a sum of products Σ w_k·B_k·A_k, which is never formed.

With the stacks B̂ = [B_1 … B_K] (m x s) and Â = [w_1·A_1; …; w_K·A_K] (s x n) the sum is B̂·Â. QR of both stacks and the
singular values of a core of at most s x s give its best approximation (Eckart and Young, 1936) in s² (m + n) steps:

    B̂ = Q·C,  Âᵀ = P·D   →   B̂·Â = Q·(C·Dᵀ)·Pᵀ,   C·Dᵀ = U·S·Vᵀ   →   (Q·U)·S·(P·V)ᵀ

Of a stack many times as tall as R only the leading R directions are wanted. Subspace iteration finds them with products
by the stacks (Halko, Martinsson, Tropp, 2011, algorithm 4.4), from what the clients' A begin with: where the leading
values stand out one step is enough. Where it has not settled after a few (a flat spectrum) the core is taken. Both are
deterministic, signs included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.algebra.stack import Stack, Who, inputs, outputs

Split = Literal["balanced", "left", "right"]
SPLITS = ("balanced", "left", "right")

SPARE = 2  # directions beyond R that the iteration carries along
_TALL = 3  # a stack of so many times R + spare ranks is iterated on
_STEPS = 5  # at most, before the core is taken
_ALIKE = 1e-5  # sine of a vector's angle with those before it from which products tell them apart
_NOTHING = 1e-7  # of the largest singular value
_SETTLED = 1e-4  # sine of the angle by which the leading directions may still be off, by their values


@dataclass(frozen=True, slots=True, kw_only=True)
class Factored:
    """U·diag(values)·Vᵀ, by falling values.

    Attributes:
        left: U, (m, R), orthonormal columns; those of directions that cannot be are zero.
        values: singular values, (R,).
        right: Vᵀ, (R, n), orthonormal rows; those of directions that cannot be are zero.
        beyond: the largest singular value that is left out, or nearly so where directions were sought.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    beyond: float

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
    return refactored([(stack, start)], rank, lambda who: who.shares if weights is None else weights)[0]


def refactored(
    given: Sequence[tuple[Stack, Tensor | None]], rank: int | None, weights: Callable[[Who], Tensor]
) -> list[Factored]:
    """`refactor` of several stacks of one shape and the same devices, whose small matrices are worked on together.

    Args:
        given: every stack with its start.
        rank: of all of them; None: as of the pair.
        weights: as of `refactor`, by who stacked; the same for all of them.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"rank = {rank}: allowed is at least 1")
    if not given:
        return []
    stacks = [stack for stack, _ in given]
    first = stacks[0]
    wanted, each = rank or first.who.rank, weights(first.who)
    found: list[Factored | None] = [None] * len(stacks)
    if len(each) >= _TALL * (wanted + SPARE) and min(len(first.left), first.right.shape[1]) >= wanted + SPARE:
        starts = [_begun(stack, wanted, each) if start is None else start for stack, start in given]
        bases = torch.stack(starts)
        found = _iterated(stacks, wanted, each, bases, outputs(stacks, bases, each))
    pairs = zip(stacks, found, strict=True)
    return [_by_core(stack, wanted, each) if one is None else one for stack, one in pairs]


def _begun(stack: Stack, rank: int, weights: Tensor) -> Tensor:
    return inputs([stack], _signs(stack, rank)[None], weights)[0]


def _by_core(stack: Stack, rank: int, weights: Tensor) -> Factored:
    left, right = stack.whole()
    roots = weights.to(left.dtype).sqrt()  # on either side, so that neither outweighs the other
    q, c = torch.linalg.qr(left * roots)
    p, d = torch.linalg.qr((right * roots[:, None]).T)
    u, values, vh = torch.linalg.svd(c @ d.T, full_matrices=False)
    beyond = float(values[rank]) if len(values) > rank else 0.0
    missing = rank - len(values)  # fewer ranks than asked for were stacked, or can be
    if missing > 0:
        u, values = torch.cat([u, u.new_zeros(len(u), missing)], 1), torch.cat([values, values.new_zeros(missing)])
        vh = torch.cat([vh, vh.new_zeros(missing, vh.shape[1])])
    left, right = _signed((q @ u[:, :rank]).T, vh[:rank] @ p.T)
    return Factored(left=left.T, values=values[:rank], right=right, beyond=beyond)


def _iterated(
    stacks: Sequence[Stack], rank: int, weights: Tensor, bases: Tensor, images: Tensor
) -> list[Factored | None]:
    """Subspace iteration with Rayleigh and Ritz's step; None where it does not settle.

    A step brings the leading directions nearer by (σ_{R+1}/σ_R)² at least, and by what angle the last one moved them is
    seen; the two tell how far off they may be. Vectors are rows; what is small is reckoned in float64.

    Args:
        stacks, rank, weights: see `refactored`.
        bases: where to begin, (stacks, q, n).
        images: what the sums make of these, (stacks, q, m).
    """
    dtype, tiny = stacks[0].left.dtype, torch.finfo(torch.float64).tiny
    found: list[Factored | None] = [None] * len(stacks)
    ahead = list(range(len(stacks)))
    for _ in range(_STEPS):
        lower, wide = _orthonormal(images)
        q = wide.to(dtype)
        sums = inputs([stacks[i] for i in ahead], q, weights)  # U·Σ·Vᵀ
        wide = sums.double()
        squares, u = torch.linalg.eigh(wide @ wide.mT)
        values, u = squares.clamp_min(0).sqrt().flip(-1), u.mT.flip(-2)
        shares = values / values[:, :1].clamp_min(tiny)
        u = u * (shares > _NOTHING)[..., None]  # of what is nothing, nothing
        turned = u / values.clamp_min(tiny)[..., None]
        settled = _settled(bases, lower @ turned[:, :rank].mT, shares, rank)
        lefts, rights = _signed(u[:, :rank].to(dtype) @ q, turned[:, :rank].to(dtype) @ sums)
        beyond = values[:, rank].tolist() if values.shape[1] > rank else [math.inf] * len(ahead)
        values = values[:, :rank].to(dtype)
        for i, done, left, value, right, rest in zip(ahead, settled, lefts, values, rights, beyond, strict=True):
            found[i] = Factored(left=left.T, values=value, right=right, beyond=rest) if done else None
        if not (on := [place for place, done in enumerate(settled) if not done]):
            break
        ahead, bases = [ahead[place] for place in on], (turned[on] @ wide[on]).to(dtype)
        images = outputs([stacks[i] for i in ahead], bases, weights)
    return found


def _settled(bases: Tensor, products: Tensor, shares: Tensor, rank: int) -> list[bool]:
    """Whether the leading directions are near enough.

    Args:
        bases: what they were sought from, (stacks, q, n).
        products: of these with V: of basis·Sᵀ = L·Q with Q·S = U·Σ·Vᵀ they are known.
        shares: σ_i/σ_1, (stacks, q).
        rank: R.
    """
    leading = shares[:, :rank].square()
    nearer = torch.ones(len(shares), dtype=shares.dtype)
    if shares.shape[1] > rank:
        nearer = (shares[:, rank] / shares[:, rank - 1].clamp_min(torch.finfo(shares.dtype).tiny)).square()
    if bool((leading.sum(-1).sqrt() * nearer <= _SETTLED).all()):  # whatever they moved by
        return [True] * len(shares)
    moved = (_outside(bases, products) * leading).sum(-1).sqrt()
    return (moved * nearer <= _SETTLED).tolist()


def _orthonormal(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L and Q with L·Q = these rows and orthonormal rows in Q, both in float64.

    By Cholesky of their products; where vectors are too alike for that, by Householder.
    """
    wide = vectors.double()
    gram = wide @ wide.mT
    lower, failed = torch.linalg.cholesky_ex(gram)
    own = lower.diagonal(dim1=-2, dim2=-1).square() / gram.diagonal(dim1=-2, dim2=-1)  # sin² with those before it
    if bool(failed.any()) or not float(own.min()) > _ALIKE**2:
        q, upper = torch.linalg.qr(wide.mT)
        return upper.mT, q.mT
    one = torch.eye(gram.shape[-1], dtype=gram.dtype)
    return lower, torch.linalg.solve_triangular(lower, one, upper=False) @ wide


def _outside(bases: Tensor, products: Tensor) -> Tensor:
    """sin² of the angles between unit vectors and what a basis, orthonormal or not, spans.

    Args:
        bases: rows, (stacks, q, n).
        products: of each with its vectors, (stacks, q, vectors), float64.
    """
    wide = bases.double()
    gram = wide @ wide.mT
    sides = gram.diagonal(dim1=-2, dim2=-1)
    sides.add_(1e-12 * sides.amax(-1, keepdim=True))  # a basis with too many vectors is one too
    lower, _ = torch.linalg.cholesky_ex(gram)
    inside = torch.linalg.solve_triangular(lower, products, upper=False)
    outside: Tensor = 1 - inside.square().sum(-2)
    return outside.clamp_min(0)


def _signs(stack: Stack, rank: int) -> Tensor:
    """Signs of (R + spare, m) to mix rows with: the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (rank + SPARE, len(stack.left)), generator=generator)
    return (2 * signs - 1).to(stack.left.dtype)


def _signed(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Uᵀ and Vᵀ, with the largest entry of every row of Uᵀ positive."""
    signs = torch.where(left.amax(-1, keepdim=True) < -left.amin(-1, keepdim=True), -1.0, 1.0).to(left.dtype)
    return left * signs, right * signs
