"""Low-rank factors of many devices, side by side: the weighted sum of their products without ever forming it.

Device k has B_k = B[:, ranks_k] + s_k·ΔB_k and A_k likewise, with the pair (B, A) that all of them began with. In two
tall matrices stand L = [ΔB_1 … ΔB_K] and R = [A_1; …; A_K]. With E[i, j] = 1 where the i-th stacked rank is the pair's
rank j, and steps S and weights W on diagonals, the sum is (B·Eᵀ + L·S)·W·R, and a product with it, or with its
transpose, is two products with these. Of B only the changes are stacked: rows of a few numbers are copied faster than
they are added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from models.algebra.room import Room

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
        steps: how much of the changes counts, (s,).
        weights: what each device's reply counts.
        lengths: how many ranks each device has.
    """

    rank: int
    ranks: Tensor
    steps: Tensor
    weights: Sequence[float]
    lengths: Sequence[int]

    @cached_property
    def places(self) -> Tensor:
        """E, (s, R)."""
        return torch.nn.functional.one_hot(self.ranks, self.rank).to(self.steps.dtype)

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
        changes: [ΔB_1 … ΔB_K], (m, s).
        right: [A_1; …; A_K], (s, n).
        b, a: that they began with, (m, R) and (R, n).
        who: whose ranks these are.
    """

    changes: Tensor
    right: Tensor
    b: Tensor
    a: Tensor
    who: Who

    @property
    def left(self) -> Tensor:
        """[B_1 … B_K], (m, s)."""
        return torch.addcmul(self.b[:, self.who.ranks], self.changes, self.who.steps)

    def energy(self, weights: Tensor) -> float:
        """‖Σ w·B_k·A_k‖², Frobenius, which is the sum's Σ σ²: from products of (s, s), Σ (BᵀB)∘(AAᵀ).

        Where the stack is so tall that the sum itself takes fewer steps, from strips of that.

        Args:
            weights: (s,), one per rank.
        """
        rows, columns, ranks = len(self.b), self.right.shape[1], len(self.who.ranks)
        if ranks * (rows + columns) > rows * columns:
            strips = torch.eye(columns, dtype=self.b.dtype)
            alone = Stacks.of([self])
            found = [
                alone.outputs(strip[None], weights).double().square().sum() for strip in torch.split(strips, _STRIP)
            ]
            return float(torch.stack(found).sum())
        left, right = self.left.double() * weights.double(), self.right.double()
        return float((left.T @ left).mul_(right @ right.T).sum().clamp_min(0))

    def factors(self) -> Iterator[Factors]:
        """Each device's, in the order in which they were stacked."""
        begin, left = 0, self.left
        for weight, length in zip(self.who.weights, self.who.lengths, strict=True):
            at = slice(begin, begin + length)
            yield Factors(b=left[:, at], a=self.right[at], ranks=self.who.ranks[at], weight=weight)
            begin += length


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """Stacks of some pairs of one shape, of the same devices: what `Stack` has, with the pairs in front.

    Vectors are rows: products with few are faster so. `room` is where products are put.
    """

    changes: Tensor
    right: Tensor
    b: Tensor
    a: Tensor
    who: Who
    room: Room = field(default_factory=Room)

    @staticmethod
    def of(stacks: Sequence[Stack]) -> Stacks:
        """Of single ones."""
        sides = ([getattr(one, side) for one in stacks] for side in ("changes", "right", "b", "a"))
        changes, right, b, a = (each[0][None] if len(each) == 1 else torch.stack(each) for each in sides)
        return Stacks(changes=changes, right=right, b=b, a=a, who=stacks[0].who)

    def __len__(self) -> int:
        """How many pairs."""
        return len(self.b)

    def __iter__(self) -> Iterator[Stack]:
        """Each pair's own."""
        for changes, right, b, a in zip(self.changes, self.right, self.b, self.a, strict=True):
            yield Stack(changes=changes, right=right, b=b, a=a, who=self.who)

    def at(self, places: Sequence[int]) -> Stacks:
        """Those of some pairs."""
        if len(places) == len(self):
            return self
        changes, right, b, a = (side[list(places)] for side in (self.changes, self.right, self.b, self.a))
        return replace(self, changes=changes, right=right, b=b, a=a)

    def outputs(self, x: Tensor, weights: Tensor) -> Tensor:
        """What the sums make of vectors, each of its own: x·(Σ w·B_k·A_k)ᵀ; good until the next call.

        Args:
            x: (pairs, q, n).
            weights: w, one per stacked rank, (s,).

        Returns:
            (pairs, q, m).
        """
        inner = torch.bmm(x, self.right.mT, out=self._put("inner", x, self.right.shape[1]))
        inner.mul_(weights.to(x.dtype))
        begun = torch.bmm(inner @ self.who.places, self.b.mT, out=self._put("outputs", x, self.b.shape[1]))
        return begun.baddbmm_(inner.mul_(self.who.steps), self.changes.mT)

    def inputs(self, y: Tensor, weights: Tensor) -> Tensor:
        """What the sums' transposes make of vectors, y·(Σ w·B_k·A_k) of (pairs, q, n), for y of (pairs, q, m).

        Good until the next call.
        """
        inner = torch.bmm(y, self.changes, out=self._put("inner", y, self.right.shape[1])).mul_(self.who.steps)
        inner += (y @ self.b) @ self.who.places.T
        inner.mul_(weights.to(y.dtype))
        return torch.bmm(inner, self.right, out=self._put("inputs", y, self.right.shape[2]))

    def _put(self, purpose: str, vectors: Tensor, length: int) -> Tensor:
        return self.room(purpose, (*vectors.shape[:2], length), vectors.dtype)
