"""Products of low-rank factors of many devices, side by side: their weighted sum without ever forming it.

Device k has B_k = B[:, ranks_k] + s_k·ΔB_k and A_k likewise, with the pair (B, A) that all of them began with. What
they changed stands in two tall matrices, [ΔB_1 … ΔB_K] and [ΔA_1; …; ΔA_K]. A product with Σ w_k·B_k·A_k, or with its
transpose, is two products with these and a few with the pair, so no device's factors are ever written down either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        ranks: which of the full pair's ranks each is, (s,) int64.
        steps: how much of the changes counts, (s, 1).
        weights: what each device's reply counts.
        lengths: how many ranks each device has.
    """

    ranks: Tensor
    steps: Tensor
    weights: Sequence[float]
    lengths: Sequence[int]

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
    """What devices made of one pair.

    Attributes:
        b, a: the pair that they began with, (m, R) and (R, n).
        left: what they changed of B, (m, s).
        right: what they changed of A, (s, n).
        who: whose ranks these are.
    """

    b: Tensor
    a: Tensor
    left: Tensor
    right: Tensor
    who: Who

    @staticmethod
    def of(lefts: Sequence[Tensor], rights: Sequence[Tensor], weights: Sequence[float]) -> Stack:
        """Of factors themselves, B_k of (m, r_k) and A_k of (r_k, n): nothing was begun with.

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
        rank, steps = max(lengths), lefts[0].new_ones(len(ranks), 1)
        return Stack(
            b=lefts[0].new_zeros(rows, rank),
            a=lefts[0].new_zeros(rank, columns),
            left=torch.cat(list(lefts), 1),
            right=torch.cat(list(rights)),
            who=Who(ranks=ranks, steps=steps, weights=weights, lengths=lengths),
        )

    def times(self, x: Tensor, weights: Tensor) -> Tensor:
        """(Σ w·B_k·A_k)·x for x of (n, q) and weights of (s, 1), one per rank."""
        inner = (self.right @ x).mul_(self.who.steps).add_((self.a @ x)[self.who.ranks]).mul_(weights)
        return self._sides(self.b, self.left, inner)

    def transposed_times(self, y: Tensor, weights: Tensor) -> Tensor:
        """(Σ w·B_k·A_k)ᵀ·y for y of (m, q)."""
        inner = (self.left.T @ y).mul_(self.who.steps).add_((self.b.T @ y)[self.who.ranks]).mul_(weights)
        return self._sides(self.a.T, self.right.T, inner)

    def _sides(self, begun: Tensor, changed: Tensor, inner: Tensor) -> Tensor:
        common = inner.new_zeros(begun.shape[1], inner.shape[1]).index_add_(0, self.who.ranks, inner)
        return torch.addmm(begun @ common, changed, inner * self.who.steps)

    def whole(self) -> tuple[Tensor, Tensor]:
        """[B_1 … B_K] of (m, s) and [A_1; …; A_K] of (s, n)."""
        steps = self.who.steps
        return self.b[:, self.who.ranks] + self.left * steps.T, self.a[self.who.ranks] + self.right * steps

    def energy(self, weights: Tensor) -> float:
        """‖Σ w·B_k·A_k‖², Frobenius, which is the sum's Σ σ²: from products of (s, s), Σ (BᵀB)∘(AAᵀ).

        Where the stack is so tall that the sum itself takes fewer steps, from strips of that.

        Args:
            weights: (s,), one per rank.
        """
        rows, columns, ranks = len(self.left), self.right.shape[1], len(self.right)
        if ranks * (rows + columns) > rows * columns:
            each, strips = weights.to(self.left.dtype)[:, None], torch.eye(columns, dtype=self.left.dtype)
            found = [self.times(strip, each).double().square().sum() for strip in torch.split(strips, _STRIP, 1)]
            return float(torch.stack(found).sum())
        left, right = (side.double() for side in self.whole())
        left = left * weights.double()
        return float((left.T @ left).mul_(right @ right.T).sum().clamp_min(0))

    def factors(self) -> Iterator[Factors]:
        """Each device's, in the order in which they were stacked."""
        begin = 0
        for weight, length in zip(self.who.weights, self.who.lengths, strict=True):
            at = slice(begin, begin + length)
            ranks, steps = self.who.ranks[at], self.who.steps[at]
            b, a = self.b[:, ranks] + self.left[:, at] * steps.T, self.a[ranks] + self.right[at] * steps
            yield Factors(b=b, a=a, ranks=ranks, weight=weight)
            begin += length
