"""Examples that are decoded where they are used, once on this machine: whoever takes a few rows decodes a few rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import decoded
from data.channel_sums import chunk_of
from data.disk_cache import Key
from data.examples import Examples

_AT_ONCE = 2**24  # bytes that are decoded at a time where nothing is kept


class Decoder(Protocol):
    """Makes values of what stands for them, such as files of pictures."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's values."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of all values; some examples by themselves may come in a smaller one."""

    def __call__(self, kept: Sequence[Any]) -> Tensor:
        """Values [n, *shape] of n of them.

        Raises:
            SettingError: one cannot be decoded; names it.
        """


class OnDemand(Examples):
    """Examples whose values are decoded when they are read, and kept on disk (see `data.decoded`) where that is known.

    Args:
        kept: what stands for the values, one for each example of a part.
        decode: makes values of them.
        labels, owners: see `Examples`.
        key: of what all of `kept` are made of; None keeps nothing.
        rows: which of `kept` these examples are, int64 [N]; None is all.
    """

    kept: Sequence[Any]
    decode: Decoder
    key: Key | None
    rows: Tensor

    def __init__(
        self,
        kept: Sequence[Any],
        decode: Decoder,
        labels: Tensor,
        owners: Tensor | None = None,
        *,
        key: Key | None = None,
        rows: Tensor | None = None,
    ) -> None:
        rows = torch.arange(len(kept)) if rows is None else rows
        fields = {"kept": kept, "decode": decode, "labels": labels, "owners": owners, "key": key, "rows": rows}
        for name, one in fields.items():
            object.__setattr__(self, name, one)

    @property
    def values(self) -> Tensor:
        """All of them, decoded; not to be written to."""
        values, at = self.held(torch.arange(len(self)))
        return values if at is None else values.index_select(0, at)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's values."""
        return self.decode.shape

    @property
    def finite(self) -> bool:
        """What decodes sees to it."""
        return True

    def held(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values of some examples, decoded: where they are kept, of which rows; else in memory, in order."""
        wanted = self.rows[rows]
        found = None
        if self.key is not None:
            shape = (len(self.kept), *self.decode.shape)
            found = decoded.held(self.key, shape, self.decode.dtype, wanted.numpy(), self._make)
        if found is None:
            return self.decode([self.kept[row] for row in wanted.tolist()]), None
        return found, wanted

    def chunks(self) -> Iterator[NDArray[np.generic]]:
        """Values in their order, decoded some at a time and handed out a few at a time."""
        step = chunk_of(prod(self.decode.shape))
        some = step * max(1, _AT_ONCE // (step * prod(self.decode.shape) * self.decode.dtype.itemsize))
        for begin in range(0, len(self), some):
            values, at = self.held(torch.arange(begin, min(begin + some, len(self))))
            count = len(values) if at is None else len(at)
            for start in range(0, count, step):
                end = min(start + step, count)
                yield (values[start:end] if at is None else values.index_select(0, at[start:end])).numpy()

    def select(self, rows: Tensor) -> OnDemand:
        """Some of them, still to be decoded."""
        owners = None if self.owners is None else self.owners.index_select(0, rows)
        labels = self.labels.index_select(0, rows)
        return OnDemand(self.kept, self.decode, labels, owners, key=self.key, rows=self.rows[rows])

    def with_labels(self, labels: Tensor) -> OnDemand:
        """The same with other labels."""
        return OnDemand(self.kept, self.decode, labels, self.owners, key=self.key, rows=self.rows)

    def _make(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        return self.decode([self.kept[row] for row in rows.tolist()]).numpy()
