"""Blocks of coordinates, and a random rotation of each: H·D with random signs D and the Hadamard matrix H.

After H·D every coordinate of a block of B is a sum over all of them with random signs, divided by √B: about normal with
the block's root mean square, whatever the block was (Suresh et al., ICML 2017, §3). One quantiser for normal numbers
then does for all.

H is kept whole (±1), so that what is a whole number before it is one after it: on the way back the only rounding is
that of the scale. B is a power of two, H_B = H_p ⊗ H_q with p·q = B, so a transform is two products with small
matrices, which takes less time here than log2(B) passes over the block.

A block never reaches into the next tensor. A tensor is cut into blocks of 4096, then what is left into ever smaller
ones (one of each power of two at most) down to 64; at most 63 zeros are appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.randomness import generator

LARGEST, LEAST = 4096, 64
_CHUNK = 1 << 18  # coordinates worked on at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Some blocks of one width, side by side, that are worked on in one go.

    Attributes:
        start, stop: coordinates of the part. Where the blocks reach beyond `stop`, zeros are meant.
        rows, width: number of blocks, and coordinates of one.
        first: which block of the part is the first.
        at: which rotated coordinate is its first.
    """

    start: int
    stop: int
    rows: int
    width: int
    first: int
    at: int

    @property
    def blocks(self) -> slice:
        """These blocks among those of the part."""
        return slice(self.first, self.first + self.rows)


@dataclass(frozen=True, eq=False, kw_only=True)
class Blocks:
    """How a part is cut.

    Attributes:
        runs: in order.
        widths: of every block.
        edges: the first rotated coordinate of every block, and the end of the last one.
    """

    runs: tuple[Run, ...]
    widths: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]

    @property
    def length(self) -> int:
        """Number of rotated coordinates."""
        return int(self.edges[-1])


def blocks_of(sizes: Sequence[int], small: int) -> Blocks:
    """Cut a part (remembered).

    Args:
        sizes: coordinates of its tensors, in order.
        small: tensors of fewer coordinates than this are left out.
    """
    return _blocks(tuple(sizes), small)


@lru_cache(maxsize=128)
def _blocks(sizes: tuple[int, ...], small: int) -> Blocks:
    runs: list[Run] = []
    widths: list[int] = []
    start = at = 0
    for size in sizes:
        begin, left = start, -(-size // LEAST) * LEAST if size >= small else 0
        width = LARGEST
        while left:
            blocks, left = divmod(left, width)
            while blocks:
                rows = min(blocks, _CHUNK // width)
                stop = min(begin + rows * width, start + size)
                runs.append(Run(start=begin, stop=stop, rows=rows, width=width, first=len(widths), at=at))
                widths += [width] * rows
                begin, at, blocks = stop, at + rows * width, blocks - rows
            width //= 2
        start += size
    edges = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)]).astype(np.int64)
    return Blocks(runs=tuple(runs), widths=np.asarray(widths, np.int64), edges=edges)


class Rotation:
    """The rotation that a key stands for, there and back, with what it needs of memory.

    The signs are the same for all blocks of a message.

    Args:
        key: below 2^32; every message has one of its own, or errors of different clients would add up.
        blocks: of the part.
    """

    def __init__(self, key: int, blocks: Blocks) -> None:
        draws = generator(key, 0, "codec", "signs of the rotation")
        self._signs = torch.from_numpy(1 - 2 * draws.integers(2, size=LARGEST, dtype=np.int8)).float()
        longest = max((run.rows * run.width for run in blocks.runs), default=0)
        self._rows, self._other = torch.empty(longest), torch.empty(longest)

    def rows(self, run: Run) -> Tensor:
        """Memory for the rotated coordinates of a run: rows by width. The next call of anything here uses it again."""
        return self._rows[: run.rows * run.width].view(run.rows, run.width)

    def spare(self, run: Run) -> Tensor:
        """As much memory again, in which nothing is kept."""
        return self._other[: run.rows * run.width].view(run.rows, run.width)

    def there(self, flat: Tensor, run: Run) -> tuple[Tensor, Tensor]:
        """Rotate: rows of H·D·x, which are √B times as long as x, and the norm of each x."""
        rows, signs = self.rows(run), self._signs[: run.width]
        if run.stop - run.start == rows.numel():
            torch.mul(flat[run.start : run.stop].view_as(rows), signs, out=rows)
        else:
            rows.zero_().view(-1)[: run.stop - run.start] = flat[run.start : run.stop]
            rows.mul_(signs)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
        return self._transform(run), norms

    def back(self, run: Run, scales: Tensor, out: Tensor) -> None:
        """Turn what is in `rows` back and put it, times a scale for each block, into a part: scale·D·H·q."""
        rows = self._transform(run)
        whole = run.stop - run.start == rows.numel()
        into = out[run.start : run.stop].view_as(rows) if whole else rows
        torch.mul(rows, self._signs[: run.width], out=into).mul_(scales[run.blocks, None])
        if not whole:
            out[run.start : run.stop] = into.view(-1)[: run.stop - run.start]

    def _transform(self, run: Run) -> Tensor:
        rows = self.rows(run)
        left, right = _factors(run.width)
        p, q = len(left), len(right)
        half = self._other[: rows.numel()].view(-1, q)
        torch.mm(rows.view(-1, q), right, out=half)
        torch.bmm(left.expand(run.rows, p, p), half.view(run.rows, p, q), out=rows.view(run.rows, p, q))
        return rows


@cache
def _factors(width: int) -> tuple[Tensor, Tensor]:
    """H_p and H_q, p·q = width."""
    bits = width.bit_length() - 1
    return _hadamard(bits - bits // 2), _hadamard(bits // 2)


def _hadamard(bits: int) -> Tensor:
    matrix = torch.ones(1, 1)
    for _ in range(bits):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
