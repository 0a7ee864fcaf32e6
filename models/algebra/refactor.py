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
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.algebra.stack import Stacks

Split = Literal["balanced", "left", "right"]
SPLITS = ("balanced", "left", "right")

SPARE = 2  # directions beyond R that the iteration carries along
_TALL = 3  # a stack of so many times R + spare ranks is iterated on
_FEW = 8  # pairs whose vectors are float64 at once: of more there would be new memory, and little of it in cache
_STEPS = 5  # at most, before the core is taken
_ALIKE = 1e-5  # sine of a vector's angle with those before it from which products tell them apart
_NOTHING = 1e-7  # of the largest singular value
_PARTS = ("left", "values", "right", "beyond")
_SETTLED = 1e-4  # sine of the angle by which the leading directions may still be off, by their values


@dataclass(frozen=True, slots=True, kw_only=True)
class Factored:
    """U·diag(values)·Vᵀ, by falling values; of several pairs with the pairs in front.

    Attributes:
        left: U, (…, m, R), orthonormal columns; those of directions that cannot be are zero.
        values: singular values, (…, R).
        right: Vᵀ, (…, R, n), orthonormal rows; those of directions that cannot be are zero.
        beyond: the largest singular value that is left out, or nearly so where directions were sought; (…) float64.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    beyond: Tensor

    def __getitem__(self, place: int) -> Factored:
        """One pair's."""
        return Factored(
            left=self.left[place], values=self.values[place], right=self.right[place], beyond=self.beyond[place]
        )

    def clone(self) -> Factored:
        """In memory of its own."""
        return Factored(
            left=self.left.clone(), values=self.values.clone(), right=self.right.clone(), beyond=self.beyond.clone()
        )

    def pair(self, split: Split = "balanced") -> tuple[Tensor, Tensor]:
        """B of (…, m, R) and A of (…, R, n) whose product this is; a side without values is the one here.

        Args:
            split: who carries the values: "balanced" is B = U·√S, A = √S·Vᵀ; "left" B = U·S; "right" A = S·Vᵀ.
        """
        if split == "left":
            return self.left * self.values[..., None, :], self.right
        if split == "right":
            return self.left, self.right * self.values[..., None]
        roots = self.values.sqrt()
        return self.left * roots[..., None, :], self.right * roots[..., None]

    def least_rank(self, energy: float, total: Tensor | None = None) -> Tensor:
        """How many leading values have this share of the energy Σ σ², (…) int64: at least 1; all R where R have not.

        Args:
            energy: the share.
            total: Σ σ² of the whole sum, `Stack.energy`, (…) float64; None: that of the R values here.
        """
        squares = self.values.double().square().cumsum(-1)
        wanted = energy * (squares[..., -1] if total is None else total)
        return (1 + (squares < wanted[..., None]).sum(-1)).clamp_max(squares.shape[-1])


def refactored(stacks: Stacks, rank: int, weights: Tensor, starts: Tensor) -> Factored:
    """The best approximations of Σ_k B_k·diag(w_k)·A_k by `rank` directions; exact where a sum's rank is no more.

    Of several pairs of one shape and the same devices the small matrices are worked on together.

    Args:
        stacks: the devices' factors of the pairs, at least one.
        rank: R, at least 1; of more than min(m, n) the last directions are none, with values of 0.
        weights: w, one per stacked rank, (s,), none negative; the same for all pairs.
        starts: rows that span about what the leading directions of each sum's rows do, (pairs, R or more, n), for the
            iteration.

    Returns:
        R directions of each; beyond a sum's own rank the values are 0 to rounding. Tensors are good until the stacks
        are asked for products again.

    Raises:
        ValueError: a rank below 1, or fewer rows to start with.
    """
    if rank < 1:
        raise ValueError(f"rank = {rank}: allowed is at least 1")
    if starts.shape[1] < rank:
        raise ValueError(f"{starts.shape[1]} rows to start with: allowed are {rank} or more")
    (rows, ranks), columns = stacks.changes.shape[1:], stacks.right.shape[2]
    if ranks < _TALL * (rank + SPARE) or min(rows, columns) < rank + SPARE:
        return _by_core(stacks, rank, weights)
    return _iterated(stacks, rank, weights, starts)


def _by_core(stacks: Stacks, rank: int, weights: Tensor) -> Factored:
    roots = weights.to(stacks.b.dtype).sqrt()  # on either side, so that neither outweighs the other
    q, c = torch.linalg.qr(torch.stack([stack.left for stack in stacks]) * roots)
    p, d = torch.linalg.qr((stacks.right * roots[:, None]).mT)
    u, values, vh = torch.linalg.svd(c @ d.mT, full_matrices=False)
    found = values.shape[1]
    beyond = values[:, rank] if found > rank else values.new_zeros(len(stacks))
    if (missing := rank - found) > 0:  # fewer ranks than asked for were stacked, or can be
        u, values, vh = F.pad(u, (0, missing)), F.pad(values, (0, missing)), F.pad(vh, (0, 0, 0, missing))
    left, right = (q @ u[..., :rank]).mT, vh[:, :rank] @ p.mT
    _sign(left, right)
    return Factored(left=left.mT, values=values[:, :rank], right=right, beyond=beyond.double())


def _iterated(stacks: Stacks, rank: int, weights: Tensor, bases: Tensor) -> Factored:
    """Subspace iteration with Rayleigh and Ritz's step; by the core where it does not settle.

    A step brings the leading directions nearer by (σ_{R+1}/σ_R)² at least, and by what angle the last one moved them is
    seen; the two tell how far off they may be. Vectors are rows; what is small is reckoned in float64.

    Args:
        stacks, rank, weights: see `refactored`.
        bases: where to begin, (pairs, q, n).
    """
    room, dtype, tiny = stacks.room, stacks.b.dtype, torch.finfo(torch.float64).tiny
    found: dict[int, Factored] = {}
    ahead, left_over = list(range(len(stacks))), stacks
    for _ in range(_STEPS):
        images = left_over.outputs(bases, weights)
        lower, q = _orthonormal(images, room("q", images.shape, dtype))
        sums = left_over.inputs(q, weights)  # U·Σ·Vᵀ
        squares, u = torch.linalg.eigh(_products(sums))
        values, u = squares.clamp_min(0).sqrt().flip(-1), u.mT.flip(-2)
        shares = values / values[:, :1].clamp_min(tiny)
        u = u * (shares > _NOTHING)[..., None]  # of what is nothing, nothing
        turned = u / values.clamp_min(tiny)[..., None]
        settled = _settled(bases, lower @ turned[:, :rank].mT, shares, rank)
        sides = (("U", u, q), ("V", turned, sums))
        lefts, rights = (
            torch.bmm(mixed[:, :rank].to(dtype), of, out=room(side, (len(of), rank, of.shape[2]), dtype))
            for side, mixed, of in sides
        )
        _sign(lefts, rights)
        beyond = values[:, rank] if values.shape[1] > rank else values.new_full((len(values),), math.inf)
        reached = Factored(left=lefts.mT, values=values[:, :rank].to(dtype), right=rights, beyond=beyond)
        if all(settled) and not found:
            return reached
        found |= {ahead[place]: reached[place].clone() for place, done in enumerate(settled) if done}
        on = [place for place, done in enumerate(settled) if not done]
        ahead, left_over, bases = [ahead[i] for i in on], left_over.at(on), (turned[on] @ sums[on].double()).to(dtype)
        if not on:
            break
    else:
        core = _by_core(left_over, rank, weights)
        found |= {pair: core[place] for place, pair in enumerate(ahead)}
    each = [found[pair] for pair in range(len(stacks))]
    left, values, right, beyond = (torch.stack([getattr(one, part) for one in each]) for part in _PARTS)
    return Factored(left=left, values=values, right=right, beyond=beyond)


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


def _products(vectors: Tensor) -> Tensor:
    """Of each one's rows with one another, (pairs, q, q) float64."""
    return torch.cat([(wide := few.double()) @ wide.mT for few in torch.split(vectors, _FEW)])


def _orthonormal(vectors: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """L in float64 and Q, which is put into `out`, with L·Q = these rows and orthonormal rows in Q.

    By Cholesky of their products; where vectors are too alike for that, by Householder.
    """
    found = [_of_few(few.double()) for few in torch.split(vectors, _FEW)]
    return torch.cat([lower for lower, _ in found]), torch.cat([q.to(vectors.dtype) for _, q in found], out=out)


def _of_few(wide: Tensor) -> tuple[Tensor, Tensor]:
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
    gram = _products(bases)
    sides = gram.diagonal(dim1=-2, dim2=-1)
    sides.add_(1e-12 * sides.amax(-1, keepdim=True))  # a basis with too many vectors is one too
    lower, _ = torch.linalg.cholesky_ex(gram)
    inside = torch.linalg.solve_triangular(lower, products, upper=False)
    outside: Tensor = 1 - inside.square().sum(-2)
    return outside.clamp_min(0)


def _sign(left: Tensor, right: Tensor) -> None:
    """Let the largest entry of every row of Uᵀ be positive; Vᵀ follows."""
    signs = torch.where(left.amax(-1, keepdim=True) < -left.amin(-1, keepdim=True), -1.0, 1.0).to(left.dtype)
    for side in (left, right):
        side.mul_(signs)
