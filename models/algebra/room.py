"""Memory that is used again and again: new memory takes longer than filling it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

_SPARE = 2  # times what a purpose needed: needs that vary a little from round to round find their place there


class Room:
    """A place for each purpose, as large as the largest that was asked for.

    After `reset` no place has more than twice the largest that was asked for since the `reset` before, and one for
    which nobody asked is gone. While a place grows, the old one has been let go of.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[str, torch.dtype], Tensor] = {}
        self._asked: dict[tuple[str, torch.dtype], int] = {}

    def __call__(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Whatever is there of this shape, in place of what the purpose had before."""
        numbers, key = prod(shape), (purpose, dtype)
        self._asked[key] = max(numbers, self._asked.get(key, 0))
        if key in self._places and self._places[key].numel() < numbers:
            del self._places[key]  # before there is another
        if key not in self._places:
            self._places[key] = torch.empty(numbers, dtype=dtype)
        return self._places[key][:numbers].view(shape)

    def reset(self) -> None:
        """Let go of what was not asked for since the last time, or not nearly."""
        for key, place in list(self._places.items()):
            if place.numel() > _SPARE * self._asked.get(key, 0):
                del self._places[key]
        self._asked.clear()
