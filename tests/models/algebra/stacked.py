"""Stacks of single pairs as tests have them, and what the iteration begins with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.algebra.refactor import SPARE, Factored, refactored
from models.algebra.stack import Stack, Stacks, Who


def stacked(
    lefts: Sequence[Tensor],
    rights: Sequence[Tensor],
    weights: Sequence[float],
    begun: tuple[Tensor, Tensor] | None = None,
) -> Stack:
    """Of B_k of (m, r_k) and A_k of (r_k, n), which have the first r_k ranks; what is `begun` is added, else zeros."""
    lengths = [b.shape[1] for b in lefts]
    if begun is None:
        begun = lefts[0].new_zeros(len(lefts[0]), max(lengths)), lefts[0].new_zeros(max(lengths), rights[0].shape[1])
    ranks = torch.cat([torch.arange(length) for length in lengths])
    steps = torch.ones(len(ranks), dtype=lefts[0].dtype)
    return Stack(
        changes=torch.cat(list(lefts), 1),
        right=begun[1][ranks] + torch.cat(list(rights)),
        b=begun[0],
        a=begun[1],
        who=Who(rank=len(begun[1]), ranks=ranks, steps=steps, weights=weights, lengths=lengths),
    )


def starts_of(stacks: Stacks, rank: int, weights: Tensor) -> Tensor:
    """What the sums make of random signs: R + spare rows near their leading directions."""
    draws = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(0, 2, (rank + SPARE, stacks.b.shape[1]), generator=draws) - 1
    return stacks.inputs(signs.to(stacks.b.dtype).expand(len(stacks), -1, -1), weights).clone()


def refactor(stack: Stack, rank: int, weights: Tensor | None = None, start: Tensor | None = None) -> Factored:
    """Of one pair; weights are each device's share where none are given."""
    each, alone = stack.who.shares if weights is None else weights, Stacks.of([stack])
    starts = starts_of(alone, max(rank, 1), each) if start is None else start[None]
    return refactored(alone, rank, each, starts)[0]
