"""Several states of one network in one vector, one per cluster, so that they cross the wire together.

What clusters share comes once and first, then every cluster's own tensors, cluster by cluster. Sharing nothing, k
states are exactly k times as long as one; sharing the trunk (IFCA's weight sharing), they are a trunk and k heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.submodel import Submodel, flatten, split


def trunk(layout: Layout) -> frozenset[str]:
    """The tensors that belong to no exit."""
    return frozenset(name for name, tensor in layout.tensors.items() if not tensor.exit)


def shared_names(part: Submodel, shared: Collection[str]) -> list[str]:
    """Local names of a part's tensors whose source is shared."""
    return [name for name, block in part.items() if block.source in shared]


def pack_states(states: Sequence[Mapping[str, Tensor]], shared: Collection[str]) -> Tensor:
    """Write states of the same names and shapes into one flat vector.

    Args:
        states: by cluster; what is shared is taken from the first.
        shared: names of the tensors that come once.
    """
    parts = [flatten({name: tensor for name, tensor in states[0].items() if name in shared})]
    parts += [flatten({name: t for name, t in state.items() if name not in shared}) for state in states]
    return torch.cat(parts)


def packed_length(shapes: Mapping[str, tuple[int, ...]], count: int, shared: Collection[str]) -> int:
    """Coordinates of what `pack_states` makes of `count` states of these shapes."""
    return sum(prod(shape) * (1 if name in shared else count) for name, shape in shapes.items())


def unpack_states(
    flat: Tensor, shapes: Mapping[str, tuple[int, ...]], count: int, shared: Collection[str]
) -> list[dict[str, Tensor]]:
    """See what `pack_states` made as states again; their tensors are views.

    Raises:
        ValueError: the vector's length does not fit.
    """
    common = {name: shape for name, shape in shapes.items() if name in shared}
    own = {name: shape for name, shape in shapes.items() if name not in shared}
    first, each = (sum(map(prod, some.values())) for some in (common, own))
    if flat.shape != (first + count * each,):
        raise ValueError(f"expected {count} states of {first + count * each} coordinates, got {tuple(flat.shape)}")
    once = split(flat[:first], common)
    states = (split(flat[first + i * each : first + (i + 1) * each], own) for i in range(count))
    return [{name: once[name] if name in once else state[name] for name in shapes} for state in states]
