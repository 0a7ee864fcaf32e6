"""Block and Submodel: where every tensor that a device holds lives inside the global state.

Kept coordinates are *runs* (start, length) per axis, never index grids: slicing is narrowing, averaging adds boxes.
`gather` cuts a submodel out of a state; `average.PartialAverage` puts many of them together again.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from models.algebra.axes import Run, Runs


def run_length(runs: Runs) -> int:
    """Count the coordinates that the runs keep."""
    return sum(length for _, length in runs)


def merged(runs: Runs) -> Runs:
    """Join runs that continue one another; order is kept."""
    joined: list[Run] = []
    for start, length in runs:
        if length == 0:
            continue
        if joined and joined[-1][0] + joined[-1][1] == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return tuple(joined)


def coordinates(runs: Runs) -> Tensor:
    """List the kept coordinates (int64), in the order in which the device holds them."""
    return torch.tensor([i for start, length in runs for i in range(start, start + length)])


@dataclass(frozen=True)
class Block:
    """One held tensor: its source in the global state and the coordinates kept on each dimension.

    Attributes:
        source: name of the tensor in the global state.
        shape: shape of the source.
        runs: per dimension, the kept runs in local order.
        mask: optional 0/1 tensor of the local shape; where it is 0 the device holds nothing.
    """

    source: str
    shape: tuple[int, ...]
    runs: tuple[Runs, ...]
    _: KW_ONLY
    mask: Tensor | None = field(default=None, compare=False)

    @cached_property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of the tensor that the device holds."""
        return tuple(run_length(runs) for runs in self.runs)

    @cached_property
    def numel(self) -> int:
        """Number of coordinates of the local tensor."""
        return prod(self.local_shape)

    @cached_property
    def indices(self) -> tuple[Tensor | None, ...]:
        """Per dimension the kept coordinates (int64), or None where everything is kept in order."""
        return tuple(
            None if runs == ((0, size),) else coordinates(runs)
            for runs, size in zip(self.runs, self.shape, strict=True)
        )

    def places(self) -> Tensor:
        """Where the kept coordinates stand in the flattened source (int64 [numel]), in local order; not kept."""
        found = torch.zeros((), dtype=torch.int64)
        for index, size in zip(self.indices, self.shape, strict=True):
            found = found.unsqueeze(-1) * size + (torch.arange(size) if index is None else index)
        return found.flatten()

    def gather(self, source: Tensor) -> Tensor:
        """Cut the block out of its source; a view where every dimension keeps one run, else a copy."""
        result = source
        for dim, runs in enumerate(self.runs):
            if len(runs) == 1:
                start, length = runs[0]
                if length != result.shape[dim]:
                    result = result.narrow(dim, start, length)
            else:
                index = self.indices[dim]
                assert index is not None  # several runs are never "everything in order"
                result = result.index_select(dim, index.to(result.device))
        return result if self.mask is None else result * self.mask

    def scatter(self, values: Tensor, target: Tensor) -> None:
        """Write local values to their places in a tensor of the source's shape; the opposite of `gather`."""
        kept = [
            index if index is not None else torch.arange(size)
            for index, size in zip(self.indices, self.shape, strict=True)
        ]
        where = torch.meshgrid(*kept, indexing="ij") if kept else ()
        held = values if self.mask is None else torch.where(self.mask.bool(), values, target[where])
        target[where] = held


@dataclass(frozen=True)
class Submodel(Mapping[str, Block]):
    """What a device holds: local name → block, in state order. Names that are absent are not held.

    Attributes:
        blocks: the held tensors.
        sizes: kept units of every width axis, which is what a builder needs to make the network.
    """

    blocks: Mapping[str, Block]
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Block:
        return self.blocks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def values(self) -> ValuesView[Block]:
        """The blocks, in state order; a mapping's own way looks each of them up by its name."""
        return self.blocks.values()

    def items(self) -> ItemsView[str, Block]:
        """Local names and blocks, in state order."""
        return self.blocks.items()

    @cached_property
    def lengths(self) -> list[int]:
        """Coordinates of each tensor, in order."""
        return [block.numel for block in self.blocks.values()]

    @cached_property
    def numel(self) -> int:
        """Number of coordinates held; the length of the flat array that crosses the wire."""
        return sum(block.numel for block in self.blocks.values())

    def gather(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut the submodel out of a global state (views where possible)."""
        return {name: block.gather(state[block.source]) for name, block in self.blocks.items()}

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """View a flat vector of `numel` coordinates as the held tensors, in order.

        Raises:
            ValueError: the vector's length is not `numel`.
        """
        return split(flat, {name: block.local_shape for name, block in self.blocks.items()})


def split(flat: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """View a flat vector as consecutive tensors of the given shapes.

    Raises:
        ValueError: the vector's length is not the sum of the sizes.
    """
    expected = sum(prod(shape) for shape in shapes.values())
    if flat.shape != (expected,):
        raise ValueError(f"expected a flat vector of {expected} coordinates, got shape {tuple(flat.shape)}")
    views, offset = {}, 0
    for name, shape in shapes.items():
        views[name] = flat[offset : offset + prod(shape)].view(shape)
        offset += prod(shape)
    return views


def gather(state: Mapping[str, Tensor], submodel: Submodel) -> dict[str, Tensor]:
    """Cut a submodel out of a global state (see `Submodel.gather`)."""
    return submodel.gather(state)


def flatten(tensors: Mapping[str, Tensor], out: Tensor | None = None) -> Tensor:
    """Write tensors one after the other into a flat float32 vector; `out` reuses a buffer."""
    total = sum(tensor.numel() for tensor in tensors.values())
    flat = torch.empty(total) if out is None else out
    for tensor, view in zip(tensors.values(), split(flat, shapes_of(tensors)).values(), strict=True):
        view.copy_(tensor)
    return flat


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
