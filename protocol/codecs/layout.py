"""Which coordinates of a part are encoded, which cross the wire as they are, and which of them share a scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

# Coordinates worked on at a time: with its buffers this stays in a core's own cache.
_CHUNK = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Coordinates that are worked on in one go, as rows of equal width that have a scale each.

    Attributes:
        start, stop: among the encoded coordinates.
        first: group of the first row.
        rows: number of rows, and so of groups; coordinates are a multiple of it.
    """

    start: int
    stop: int
    first: int
    rows: int

    @property
    def groups(self) -> slice:
        """The groups of the rows."""
        return slice(self.first, self.first + self.rows)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A part's coordinates in two: those of small tensors, sent as float32, and the others.

    Attributes:
        coordinates: of the part.
        small: stretches (start, stop) of small tensors, neighbours joined.
        large: stretches of the others.
        lengths: sizes of the large tensors, in order.
        width: coordinates of a group; 0 where a whole tensor is one.
    """

    coordinates: int
    small: tuple[tuple[int, int], ...]
    large: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    width: int = 0

    @property
    def plain(self) -> int:
        """Coordinates sent as they are."""
        return self.coordinates - self.encoded

    @property
    def encoded(self) -> int:
        """The other ones."""
        return sum(self.lengths)

    @property
    def groups(self) -> int:
        """Number of groups that share a scale."""
        return sum(-(-length // self.width) if self.width else 1 for length in self.lengths)

    def pieces(self) -> Iterator[Piece]:
        """Cut the encoded coordinates into pieces, in order; groups are counted up."""
        start = group = 0
        for length in self.lengths:
            stop = start + length
            if not self.width:
                for at in range(start, stop, _CHUNK):
                    yield Piece(start=at, stop=min(at + _CHUNK, stop), first=group, rows=1)
                start, group = stop, group + 1
                continue
            step = max(1, _CHUNK // self.width)
            full, rest = divmod(length, self.width)
            for row in range(0, full, step):
                rows = min(step, full - row)
                yield Piece(
                    start=start + row * self.width, stop=start + (row + rows) * self.width, first=group + row, rows=rows
                )
            if rest:
                yield Piece(start=stop - rest, stop=stop, first=group + full, rows=1)
            start, group = stop, group + full + bool(rest)

    def spans(self) -> list[tuple[int, int]]:
        """First and last coordinate plus one of every group, for groups that are whole tensors."""
        ends = [0]
        for length in self.lengths:
            ends.append(ends[-1] + length)
        return list(pairwise(ends))

    def take(self, flat: Tensor, stretches: tuple[tuple[int, int], ...]) -> Tensor:
        """The coordinates of some stretches, one after the other; a view where it is one stretch."""
        if len(stretches) == 1:
            return flat[slice(*stretches[0])]
        return torch.cat([flat[start:stop] for start, stop in stretches]) if stretches else flat[:0]

    def put(self, values: Tensor, stretches: tuple[tuple[int, int], ...], out: Tensor) -> None:
        """The other way round."""
        at = 0
        for start, stop in stretches:
            out[start:stop] = values[at : at + stop - start]
            at += stop - start


@lru_cache(maxsize=128)
def _layout(sizes: tuple[int, ...], small: int, scale: str, block: int) -> Layout:
    stretches: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    at = 0
    for size in sizes:
        kind = stretches[size < small]
        if size and kind and kind[-1][1] == at:
            kind[-1] = (kind[-1][0], at + size)
        elif size:
            kind.append((at, at + size))
        at += size
    lengths = tuple(size for size in sizes if size and size >= small)
    if scale == "whole" and lengths:
        lengths = (sum(lengths),)
    return Layout(
        coordinates=at,
        small=tuple(stretches[True]),
        large=tuple(stretches[False]),
        lengths=lengths,
        width=block if scale == "block" else 0,
    )


def layout_of(sizes: Sequence[int], small: int, scale: str = "whole", block: int = 0) -> Layout:
    """Divide a part's coordinates (remembered).

    Args:
        sizes: coordinates of its tensors, in order.
        small: tensors of fewer coordinates than this are sent as they are.
        scale: "whole", "tensor" or "block": what shares a scale. A block never reaches into the next tensor.
        block: coordinates of a block.
    """
    return _layout(tuple(sizes), small, scale, block)
