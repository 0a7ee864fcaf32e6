"""Memory that is used again and again: new memory takes longer than filling it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


class Room:
    """A place for each purpose, as large as the largest that was asked for."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Whatever is there of this shape, in place of what the purpose had before."""
        numbers = prod(shape)
        found = self._places.get((purpose, dtype))
        if found is None or found.numel() < numbers:
            found = self._places[purpose, dtype] = torch.empty(numbers, dtype=dtype)
        return found[:numbers].view(shape)
