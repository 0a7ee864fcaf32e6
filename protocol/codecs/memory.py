"""What a codec remembers, under submodels: always in the coordinates of the full network.

A part's coordinates are other ones from round to round where windows move or units are drawn (FedRolex, dropout), or
where a device changes its tier; a residual kept in the part's own shape would be added to the wrong weights, or be lost
whenever the part changes. So a codec's vectors are gathered from, and scattered into, one vector of the whole network;
coordinates that this round's part does not hold keep what they had until a part holds them again.

The price is 4 bytes per coordinate of the full network, on the device too. Where requests bring the whole state
(`slice-at = "client"`) a device holds as much anyway while it slices; a device that cannot should use a codec that
remembers nothing, which FedPAQ's does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from models.algebra.submodel import Submodel, flatten, split
from protocol.codecs.base import Remembering


@dataclass(frozen=True, eq=False)
class OfPart:
    """A memory of full vectors, seen in the coordinates of a part.

    Attributes:
        memory: holds vectors of the full network.
        part: the part.
        shapes: of the full state by name, in order.
    """

    memory: Remembering
    part: Submodel
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def _length(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    @cached_property
    def _whole(self) -> bool:
        """Whether the part is the network, in order."""
        return [block.source for block in self.part.values()] == list(self.shapes) and all(
            block.mask is None and all(index is None for index in block.indices) for block in self.part.values()
        )

    def read(self, name: str) -> Tensor | None:
        """The part of a vector (a copy, or the vector itself); what the part's masks leave out is zero."""
        full = self._full(name)
        if full is None or self._whole:
            return full
        return flatten(self.part.gather(split(full, self.shapes)))

    def write(self, name: str, vector: Tensor) -> None:
        """Put the part into the vector; coordinates that the part does not hold keep their value."""
        if self._whole:
            self.memory.write(name, vector)
            return
        before = self._full(name)
        full = torch.zeros(self._length) if before is None else before.clone()
        tensors = split(full, self.shapes)
        for block, values in zip(self.part.values(), self.part.split(vector).values(), strict=True):
            block.scatter(values, tensors[block.source])
        self.memory.write(name, full)

    def _full(self, name: str) -> Tensor | None:
        full = self.memory.read(name)
        return full if full is not None and full.numel() == self._length else None  # another network's: lost
