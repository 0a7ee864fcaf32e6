"""The coordinates on which updates of different parts are compared, few enough to be kept for every member.

Members of nested parts (leading widths, depths, windows of one round) share what the narrowest holds, and are compared
there. Parts that are drawn at random share next to nothing all together, so they are compared pair by pair, on whatever
both hold. Where that is more than `most` coordinates, a fixed random sample of them stands for all: cosines then are
estimates with an error of about 1/√most for updates without outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.axes import Layout, Runs
from models.algebra.submodel import Submodel

Places = NDArray[np.int64]
_REMEMBERED = 8  # parts whose places are kept: tiers come again and again, draws never


class Sample:
    """Some coordinates of a network's state, and how to read them out of an update.

    Args:
        layout: of the network.
        places: ascending places in the flat state, int64 (d,).
    """

    def __init__(self, layout: Layout, places: Places) -> None:
        self.places = places
        ends = np.cumsum([prod(tensor.shape) for tensor in layout.tensors.values()])
        bounds = np.searchsorted(places, [0, *ends.tolist()])
        # tensor → (positions in the sample, the coordinate along every dimension)
        self._of: dict[str, tuple[slice, tuple[Places, ...]]] = {}
        for i, (name, tensor) in enumerate(layout.tensors.items()):
            inside = places[bounds[i] : bounds[i + 1]] - (ends[i] - prod(tensor.shape))
            if len(inside):
                self._of[name] = slice(bounds[i], bounds[i + 1]), np.unravel_index(inside, tensor.shape or (1,))
        self._known: dict[int, tuple[Submodel, Places]] = {}

    def read(self, part: Submodel, difference: Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values of an update at the sample, 0 where the part does not hold the coordinate, and which ones it holds.

        Args:
            part: of the network (not of a cluster).
            difference: flat vector of `part.numel` coordinates.
        """
        local = self._local(part)
        held = local >= 0
        values = np.zeros(len(local), np.float32)
        values[held] = difference.numpy()[local[held]]
        return values, held

    def _local(self, part: Submodel) -> Places:
        """Where the part's flat vector has each coordinate of the sample; -1 where it has not."""
        if id(part) in self._known:
            return self._known[id(part)][1]
        local, offset = np.full(len(self.places), -1, np.int64), 0
        for block in part.values():
            if block.source in self._of:
                where, along = self._of[block.source]
                dims = [
                    _inverse(runs, size)[i] for runs, size, i in zip(block.runs, block.shape, along, strict=False)
                ] or [along[0]]
                kept = np.logical_and.reduce([dim >= 0 for dim in dims])
                inside = np.ravel_multi_index([dim[kept] for dim in dims], block.local_shape or (1,))
                if block.mask is not None:
                    masked = block.mask.bool().reshape(-1).numpy()[inside]
                    kept[kept], inside = masked, inside[masked]
                local[where][kept] = offset + inside
            offset += block.numel
        if len(self._known) >= _REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[id(part)] = (part, local)  # the part too, so that its id stays its own
        return local


def choose(layout: Layout, parts: Sequence[Submodel], most: int, draws: np.random.Generator) -> Sample:
    """Choose the coordinates on which parts are compared.

    Args:
        layout: of the network.
        parts: what the members hold; at least one.
        most: how many coordinates at most.
        draws: where a sample is drawn from.

    Returns:
        All that the parts have in common if that is at least half of the smallest one, else all there are; or a sample.
    """
    kept = _common(layout, parts)
    if 2 * _count(kept) < min(part.numel for part in parts):
        kept = {name: [np.arange(size) for size in tensor.shape] for name, tensor in layout.tensors.items()}
    total = _count(kept)
    wanted = np.arange(total) if total <= most else np.sort(draws.choice(total, most, replace=False, shuffle=False))
    found, start, offset = [], 0, 0
    for name, tensor in layout.tensors.items():
        if name in kept:
            sizes = [len(dim) for dim in kept[name]]
            first, last = np.searchsorted(wanted, [start, start + prod(sizes)])
            inside = wanted[first:last] - start
            if sizes:
                among = np.unravel_index(inside, sizes)
                inside = np.ravel_multi_index([dim[i] for dim, i in zip(kept[name], among, strict=True)], tensor.shape)
            found.append(offset + inside)
            start += prod(sizes)
        offset += prod(tensor.shape)
    return Sample(layout, np.concatenate(found) if found else np.zeros(0, np.int64))


def _common(layout: Layout, parts: Sequence[Submodel]) -> dict[str, list[Places]]:
    """Tensor → per dimension the coordinates that every part holds; tensors of which nothing is held by all are absent.

    Element masks are not looked at: `Sample.read` says what they leave out.
    """
    found: dict[str, list[Places]] = {}
    distinct = list({id(part): {block.source: block.runs for block in part.values()} for part in parts}.values())
    for name, tensor in layout.tensors.items():
        if all(name in part for part in distinct):
            dims = [
                np.flatnonzero(np.logical_and.reduce([_inverse(part[name][i], size) >= 0 for part in distinct]))
                for i, size in enumerate(tensor.shape)
            ]
            if all(len(dim) for dim in dims):
                found[name] = dims
    return found


def _count(kept: dict[str, list[Places]]) -> int:
    return sum(prod(len(dim) for dim in dims) for dims in kept.values())


def _inverse(runs: Runs, size: int) -> Places:
    """For each coordinate of a full dimension, where the part has it; -1 where it has not."""
    inverse, local = np.full(size, -1, np.int64), 0
    for start, length in runs:
        inverse[start : start + length] = np.arange(local, local + length)
        local += length
    return inverse
