"""Products of low-rank factors of many devices, side by side: their weighted sum without ever forming it.

Device k has B_k = B[:, ranks_k] + s_k·ΔB_k and A_k likewise, with the pair (B, A) that all of them began with. That
and what they changed stands in two tall matrices, L = [B, ΔB_1 … ΔB_K] and R = [A; ΔA_1; …; ΔA_K], and the sum is L·M·R
with a small matrix M that says who counts how much (`Who.mixed`). A product with the sum, or with its transpose,
is two products with these, and no device's factors are ever written down either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

_STRIP = 64  # columns of a sum at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """One pair as one device left it.

    Attributes:
        b: (m, r).
        a: (r, n).
        ranks: which of the full pair's ranks they are, (r,) int64.
        weight: what the reply counts.
    """

    b: Tensor
    a: Tensor
    ranks: Tensor
    weight: float


@dataclass(frozen=True, kw_only=True)
class Who:
    """Whose ranks stand where in a stack of s ranks; the same for all pairs that the same devices held alike.

    Attributes:
        rank: R, of the full pair.
        ranks: which of the full pair's ranks each is, (s,) int64.
        steps: how much of the changes counts, (s, 1).
        weights: what each device's reply counts.
        lengths: how many ranks each device has.
    """

    rank: int
    ranks: Tensor
    steps: Tensor
    weights: Sequence[float]
    lengths: Sequence[int]

    _counted: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def _places(self) -> Tensor:
        """E: a 1 where a stacked rank is that rank of the full pair, (R, s)."""
        return torch.nn.functional.one_hot(self.ranks, self.rank).T.to(self.steps.dtype)

    def mixed(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """vectors·M, (…, R + s), with M = [E; S]·W·[Eᵀ, S]; S and W are diagonal: steps and weights.

        Args:
            vectors: rows of R + s, (…, R + s).
            weights: w, one per stacked rank, (s,); kept, so that one tensor is converted once.
        """
        if id(weights) not in self._counted:
            self._counted[id(weights)] = (weights, weights.to(self.steps.dtype))
        counted, steps = self._counted[id(weights)][1], self.steps[:, 0]
        devices = torch.addcmul(vectors[..., : self.rank] @ self._places, vectors[..., self.rank :], steps)
        devices *= counted
        return torch.cat([devices @ self._places.T, devices * steps], -1)

    @cached_property
    def shares(self) -> Tensor:
        """Each rank's device's share of all weights, (s,) float64."""
        each = torch.tensor(self.weights, dtype=torch.float64)
        return (each / each.sum()).repeat_interleave(torch.tensor(self.lengths))

    @cached_property
    def shares_of_holders(self) -> Tensor:
        """Each rank's device's share of the weights of those who held the rank, (s,) float64."""
        shares = self.shares
        totals = torch.zeros(1 + int(self.ranks.max()), dtype=torch.float64).index_add_(0, self.ranks, shares)
        return shares / totals[self.ranks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What devices made of one pair of rank R.

    Attributes:
        left: B, and what they changed of it, (m, R + s).
        right: A, and what they changed of it, (R + s, n).
        who: whose ranks these are.
    """

    left: Tensor
    right: Tensor
    who: Who

    @staticmethod
    def of(
        lefts: Sequence[Tensor],
        rights: Sequence[Tensor],
        weights: Sequence[float],
        begun: tuple[Tensor, Tensor] | None = None,
    ) -> Stack:
        """Of B_k of (m, r_k) and A_k of (r_k, n), which have the first r_k ranks.

        Args:
            lefts: every device's B, or with `begun` what it changed of it.
            rights: every device's A likewise.
            weights: what each device counts.
            begun: B of (m, R) and A of (R, n) that all of them began with.

        Raises:
            ValueError: none, or shapes that do not fit.
        """
        if not lefts or not len(lefts) == len(rights) == len(weights):
            raise ValueError(f"expected as many B as A and weights, got {len(lefts)}, {len(rights)}, {len(weights)}")
        rows, columns = lefts[0].shape[0], rights[0].shape[1]
        for b, a in zip(lefts, rights, strict=True):
            if b.shape[0] != rows or a.shape[1] != columns or b.shape[1] != a.shape[0]:
                raise ValueError(f"{tuple(b.shape)} and {tuple(a.shape)} are no pair of ({rows}, r) and (r, {columns})")
        lengths = [b.shape[1] for b in lefts]
        ranks = torch.cat([torch.arange(length) for length in lengths])
        if begun is None:
            begun = lefts[0].new_zeros(rows, max(lengths)), lefts[0].new_zeros(max(lengths), columns)
        return Stack(
            left=torch.cat([begun[0], *lefts], 1),
            right=torch.cat([begun[1], *rights]),
            who=Who(
                rank=len(begun[1]),
                ranks=ranks,
                steps=lefts[0].new_ones(len(ranks), 1),
                weights=weights,
                lengths=lengths,
            ),
        )

    @property
    def b(self) -> Tensor:
        """B that they began with, (m, R)."""
        return self.left[:, : self.who.rank]

    @property
    def a(self) -> Tensor:
        """A that they began with, (R, n)."""
        return self.right[: self.who.rank]

    def outputs(self, x: Tensor, weights: Tensor) -> Tensor:
        """What the sum makes of vectors, x·(Σ w·B_k·A_k)ᵀ of (q, m), for rows x of (q, n) and weights of (s,)."""
        return outputs([self], x[None], weights)[0]

    def whole(self) -> tuple[Tensor, Tensor]:
        """[B_1 … B_K] of (m, s) and [A_1; …; A_K] of (s, n)."""
        steps, rank = self.who.steps, self.who.rank
        changed = self.left[:, rank:] * steps.T, self.right[rank:] * steps
        return self.b[:, self.who.ranks] + changed[0], self.a[self.who.ranks] + changed[1]

    def energy(self, weights: Tensor) -> float:
        """‖Σ w·B_k·A_k‖², Frobenius, which is the sum's Σ σ²: from products of (s, s), Σ (BᵀB)∘(AAᵀ).

        Where the stack is so tall that the sum itself takes fewer steps, from strips of that.

        Args:
            weights: (s,), one per rank.
        """
        rows, columns, ranks = len(self.left), self.right.shape[1], len(self.who.ranks)
        if ranks * (rows + columns) > rows * columns:
            strips = torch.eye(columns, dtype=self.left.dtype)
            found = [self.outputs(strip, weights).double().square().sum() for strip in torch.split(strips, _STRIP)]
            return float(torch.stack(found).sum())
        left, right = (side.double() for side in self.whole())
        left = left * weights.double()
        return float((left.T @ left).mul_(right @ right.T).sum().clamp_min(0))

    def factors(self) -> Iterator[Factors]:
        """Each device's, in the order in which they were stacked."""
        left, right = self.whole()
        begin = 0
        for weight, length in zip(self.who.weights, self.who.lengths, strict=True):
            at = slice(begin, begin + length)
            yield Factors(b=left[:, at], a=right[at], ranks=self.who.ranks[at], weight=weight)
            begin += length


def outputs(stacks: Sequence[Stack], x: Tensor, weights: Tensor) -> Tensor:
    """What sums make of vectors, each of its own: x·(Σ w·B_k·A_k)ᵀ. Vectors are rows: products with few are faster so.

    Args:
        stacks: of one shape and the same devices.
        x: (stacks, q, n).
        weights: w, one per stacked rank, (s,).

    Returns:
        (stacks, q, m).
    """
    inner = stacks[0].who.mixed(_each(x, [stack.right.T for stack in stacks]), weights)
    return _each(inner, [stack.left.T for stack in stacks])


def inputs(stacks: Sequence[Stack], y: Tensor, weights: Tensor) -> Tensor:
    """What the sums' transposes make of vectors, y·(Σ w·B_k·A_k) of (stacks, q, n), for y of (stacks, q, m)."""
    inner = stacks[0].who.mixed(_each(y, [stack.left for stack in stacks]), weights)
    return _each(inner, [stack.right for stack in stacks])


def _each(vectors: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Each one's vectors times its matrix: in one call where the matrices stand one behind the other in memory."""
    if (together := _together(matrices)) is not None:
        return torch.bmm(vectors, together)
    found = vectors.new_empty(*vectors.shape[:2], matrices[0].shape[1])
    for own, matrix, out in zip(vectors, matrices, found, strict=True):
        torch.mm(own, matrix, out=out)
    return found


def _together(matrices: Sequence[Tensor]) -> Tensor | None:
    """Matrices of one shape as one tensor, (number, rows, columns), without a copy; None if they stand elsewhere."""
    first = matrices[0]
    places = [matrix.data_ptr() for matrix in matrices]
    size = first.element_size() * first.numel()
    alike = all(matrix.shape == first.shape and matrix.stride() == first.stride() for matrix in matrices)
    shared = all(matrix.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for matrix in matrices)
    if not alike or not shared or places != [places[0] + i * size for i in range(len(places))]:
        return None
    shape, strides = (len(matrices), *first.shape), (first.numel(), *first.stride())
    return first.as_strided(shape, strides, first.storage_offset())
