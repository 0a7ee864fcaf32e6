"""Examples that are decoded where they are used: whoever takes a few rows of them decodes a few rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.channel_sums import chunk_of
from data.examples import Examples


class Decoder(Protocol):
    """Makes values of what stands for them, such as files of pictures."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's values."""

    def __call__(self, kept: Sequence[Any]) -> Tensor:
        """Values [n, *shape] of n of them.

        Raises:
            SettingError: one cannot be decoded; names it.
        """


class OnDemand(Examples):
    """Examples whose `values` are made every time that they are read, and not kept.

    Args:
        kept: what stands for the values, one for each example.
        decode: makes values of them.
        labels, owners: see `Examples`.
    """

    kept: Sequence[Any]
    decode: Decoder

    def __init__(self, kept: Sequence[Any], decode: Decoder, labels: Tensor, owners: Tensor | None = None) -> None:
        for name, one in (("kept", kept), ("decode", decode), ("labels", labels), ("owners", owners)):
            object.__setattr__(self, name, one)

    @property
    def values(self) -> Tensor:
        """All of them, decoded."""
        return self.decode(self.kept)

    @property
    def finite(self) -> bool:
        """What decodes sees to it."""
        return True

    def chunks(self) -> Iterator[NDArray[np.generic]]:
        """Values in their order, decoded a few at a time."""
        step = chunk_of(prod(self.decode.shape))
        for start in range(0, len(self.kept), step):
            yield self.decode(self.kept[start : start + step]).numpy()

    def select(self, rows: Tensor) -> OnDemand:
        """Some of them, still to be decoded."""
        owners = None if self.owners is None else self.owners.index_select(0, rows)
        kept = [self.kept[row] for row in rows.tolist()]
        return OnDemand(kept, self.decode, self.labels.index_select(0, rows), owners)

    def with_labels(self, labels: Tensor) -> OnDemand:
        """The same with other labels."""
        return OnDemand(self.kept, self.decode, labels, self.owners)
