"""Inputs that stay as they are stored, and are made ready a batch at a time.

A picture is a byte a value in its file and four in a network: 5,000 pictures of 224 x 224 are 0.75 GB as they are
stored and 3 GB made ready. What is stored may be memory-mapped, and others may use other rows of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

READY_AT_ONCE = 2**25  # bytes: inputs that take less than this are made ready once and kept


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How stored values become inputs.

    Attributes:
        mean, std: float32 [C, 1, ...], subtracted and divided by; None where values are tokens, which become int64.
    """

    mean: Tensor | None = None
    std: Tensor | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Inputs of some values, in memory of their own."""
        if self.mean is None or self.std is None:
            return values.to(torch.int64, copy=True)
        ready = values.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return ready.sub_(self.mean.to(values.device)).div_(self.std.to(values.device))

    def to(self, device: torch.device) -> Scale:
        """The same with its numbers on a device, so that no batch waits for them."""
        if self.mean is None or self.std is None:
            return self
        return Scale(mean=self.mean.to(device), std=self.std.to(device))

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Bytes of inputs of this shape."""
        return torch.Size(shape).numel() * (8 if self.mean is None else 4)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """Inputs by row, like the tensor of them all, which there never is.

    Attributes:
        values: as they are stored, [M, ...]; never written to.
        rows: int64 [N], which of them; None is all, in order.
        scale: makes inputs of them.
        device: where inputs are wanted.
    """

    values: Tensor
    rows: Tensor | None
    scale: Scale
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """Of the tensor of them all."""
        return torch.Size((len(self), *self.values.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return len(self) * self.values[:1].nbytes

    def to(self, device: torch.device) -> Stored:
        """The same for another device; a batch goes there as it is stored."""
        return replace(self, device=device, scale=self.scale.to(device))

    def select(self, rows: Tensor) -> Stored:
        """Some of them (int64 [n]); nothing is copied."""
        rows = rows.to("cpu")
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Inputs of some rows (int64 [n]), ready, on the device; `dim` is 0."""
        del dim
        rows = rows.to("cpu")
        wanted = rows if self.rows is None else self.rows[rows]
        return self.scale(self.values.index_select(0, wanted).to(self.device))

    def split(self, split_size: int) -> Iterator[Tensor]:
        """Inputs in their order, so many at a time."""
        for start in range(0, len(self), split_size):
            end = min(start + split_size, len(self))
            if self.rows is None:
                yield self.scale(self.values[start:end].to(self.device))
            else:
                yield self.index_select(0, torch.arange(start, end))

    def whole(self) -> Tensor:
        """The tensor of them all."""
        parts = list(self.split(max(1, len(self))))
        return parts[0] if parts else self.scale(self.values[:0].to(self.device))


def inputs_of(values: Tensor, rows: Tensor | None, scale: Scale) -> Tensor | Stored:
    """Inputs of some values: made ready at once where they are few bytes, else stored."""
    stored = Stored(values=values, rows=rows, scale=scale)
    return stored.whole() if scale.bytes_of(tuple(stored.shape)) <= READY_AT_ONCE else stored


def tensor_over(array: NDArray[np.generic]) -> Tensor:
    """A tensor in an array's memory, which may be a file's: nobody writes to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to
        return torch.from_numpy(array)
