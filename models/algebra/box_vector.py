"""Numbers about whatever a device ever held of the full state, and about nothing else.

Parts change from round to round. What was held is kept as one box for every tensor: on every dimension the union of the
coordinates that some part had there. Parts that stay the same, and parts that are nested, have the largest of them as
their box, so a small device keeps little; a window that moves, or random units, grow it until it is the whole tensor.

As one flat float32 vector it begins with the boxes themselves: coordinates of the full state, length of what says which
boxes, and for every box the tensor's place in the state and, per dimension, the number of runs, their starts and
lengths. These are whole numbers below 2²⁴, which float32 has exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from models.algebra.axes import Layout, Run, Runs
from models.algebra.submodel import Block, Submodel, flatten, merged


class BoxVector:
    """A number for every coordinate that was ever held.

    Args:
        layout: of the full state.
        boxes: what was held, by the tensor's name in the state.
        values: one number for every coordinate of the boxes, in their order (float32).
    """

    def __init__(self, layout: Layout, boxes: Submodel, values: Tensor) -> None:
        self.layout, self.boxes, self.values = layout, boxes, values

    @staticmethod
    def empty(layout: Layout) -> BoxVector:
        """No coordinate at all."""
        return BoxVector(layout, Submodel({}), torch.zeros(0))

    def widened_by(self, part: Submodel) -> BoxVector:
        """The same numbers, and 0 for what a part has beyond them."""
        new = {block.source: block for block in part.values()}
        boxes = {}
        for name, tensor in self.layout.tensors.items():
            sides = [found.runs for found in (self.boxes.get(name), new.get(name)) if found is not None]
            if sides:  # the first and the last are the same where only one of them has the tensor
                boxes[name] = Block(source=name, shape=tensor.shape, runs=tuple(map(union, sides[0], sides[-1])))
        if Submodel(boxes) == self.boxes:
            return self
        wider = BoxVector(self.layout, Submodel(boxes), torch.zeros(Submodel(boxes).numel))
        wider.scatter(self.boxes, self.values)
        return wider

    def gather(self, part: Submodel) -> Tensor:
        """The numbers of a part, flat, in its own order; there has to be room for it."""
        if self._is_all(part):
            return self.values.clone()
        return flatten(self._inside(part).gather(self.boxes.split(self.values)))

    def scatter(self, part: Submodel, values: Tensor) -> None:
        """Write the numbers of a part."""
        if self._is_all(part):
            self.values.copy_(values)
            return
        mine, inside = self.boxes.split(self.values), self._inside(part)
        for name, new in part.split(values).items():
            inside[name].scatter(new, mine[inside[name].source])

    def to_vector(self) -> Tensor:
        """The boxes and the numbers as one vector."""
        places, header = {name: i for i, name in enumerate(self.layout.tensors)}, []
        for name, block in self.boxes.items():
            header.append(places[name])
            for runs in block.runs:
                header += [len(runs), *(number for run in runs for number in run)]
        front = torch.tensor([self.layout.parameters, len(header), *header], dtype=torch.float32)
        return torch.cat([front, self.values])

    @staticmethod
    def from_vector(vector: Tensor, layout: Layout) -> BoxVector | None:
        """Read what `to_vector` wrote; None if it is about another network, or damaged."""
        if vector.numel() < 2 or vector[0] != torch.tensor(float(layout.parameters)):
            return None
        count = int(vector[1]) if 0 <= vector[1] <= vector.numel() - 2 else 0
        numbers, tensors = iter(vector[2 : 2 + count].int().tolist()), list(layout.tensors.items())
        try:
            found = [_read(numbers, tensors[place][0], tensors[place][1].shape) for place in numbers]
        except (IndexError, ValueError):
            return None
        boxes = Submodel({block.source: block for block in found})
        values = vector[2 + count :]
        return BoxVector(layout, boxes, values) if boxes.numel == values.numel() else None

    def _is_all(self, part: Submodel) -> bool:
        plain = all(block.mask is None for block in part.values())
        return plain and [(b.source, b.runs) for b in part.values()] == [
            (b.source, b.runs) for b in self.boxes.values()
        ]

    def _inside(self, part: Submodel) -> Submodel:
        """A part as blocks of the boxes."""
        blocks = {}
        for name, block in part.items():
            box = self.boxes[block.source]
            runs = tuple(map(among, block.runs, box.runs))
            blocks[name] = Block(source=block.source, shape=box.local_shape, runs=runs, mask=block.mask)
        return Submodel(blocks)


def union(first: Runs, second: Runs) -> Runs:
    """All coordinates of two lists of runs, ascending."""
    joined: list[Run] = []
    for start, length in sorted((*first, *second)):
        begin, known = joined[-1] if joined else (start, 0)
        if joined and start <= begin + known:
            joined[-1] = (begin, max(known, start + length - begin))
        else:
            joined.append((start, length))
    return tuple(joined)


def among(runs: Runs, box: Runs) -> Runs:
    """Where runs stand among the coordinates of an ascending list of runs that has them all."""
    starts = [start for start, _ in box]
    before = [0, *accumulate(length for _, length in box)]
    places = [bisect_right(starts, start) - 1 for start, _ in runs]
    return merged(
        tuple((before[i] + start - starts[i], length) for i, (start, length) in zip(places, runs, strict=True))
    )


def _read(numbers: Iterator[int], name: str, shape: tuple[int, ...]) -> Block:
    """Read one box.

    Raises:
        ValueError: it does not fit the tensor, or ends too soon.
    """
    sides: list[Runs] = []
    for size in shape:
        pairs = [next(numbers, -1) for _ in range(2 * min(size, next(numbers, 0)))]
        runs = tuple(zip(pairs[::2], pairs[1::2], strict=True))
        if not runs or union(runs, ()) != runs or runs[0][0] < 0 or runs[-1][0] + runs[-1][1] > size:
            raise ValueError(f"no runs of {size} coordinates: {runs[:3]}")
        sides.append(runs)
    return Block(source=name, shape=shape, runs=tuple(sides))
