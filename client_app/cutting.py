"""A part, cut out of the flat vector of the whole state.

By the boxes of its tensors; and a small part that is asked for again, as a tier's is by each of its clients, by its
places in the vector. That is one operation for all of its tensors, which take some microseconds each, however few their
numbers are: 5 to 50 µs for 170 to 310 of the default network's smaller tiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from models.algebra.plans import Plan
from models.algebra.submodel import flatten, split
from models.networks.build import layout, submodel
from models.networks.spec import NetworkSpec
from models.recent import Recent

# Coordinates of a part up to which places are faster than boxes, on a CPU with AVX-512; they take 8 bytes each.
MOST = 1 << 17


@dataclass(slots=True)
class _Known:
    asked: bool = False
    places: Tensor | None = None


_known = Recent[tuple[NetworkSpec, Plan], _Known](32)


def cut(spec: NetworkSpec, plan: Plan, full: Tensor, out: Tensor) -> Tensor:
    """Write a part into a vector, and return that.

    Args:
        spec: the full network.
        plan: the part, of which every weight is kept (`plan.keep` is 1).
        full: the whole state, flat.
        out: of the part's length.

    Raises:
        ValueError: the state is of another size.
    """
    part = submodel(spec, plan)
    if part.numel > MOST:
        return _by_boxes(spec, plan, full, out)
    known = _known((spec, plan), _Known)
    if known.places is None and known.asked:  # what a round draws for one client is asked for once
        places = _by_boxes(
            spec, plan, torch.arange(layout(spec).parameters), torch.empty(part.numel, dtype=torch.int64)
        )
        known.places = places
    known.asked = True
    if known.places is None or full.shape != (layout(spec).parameters,):
        return _by_boxes(spec, plan, full, out)
    return torch.index_select(full, 0, known.places, out=out)


def _by_boxes(spec: NetworkSpec, plan: Plan, full: Tensor, out: Tensor) -> Tensor:
    return flatten(submodel(spec, plan).gather(split(full, full_shapes(spec))), out=out)


@lru_cache(maxsize=128)
def full_shapes(spec: NetworkSpec) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the full state by name."""
    return {name: tuple(tensor.shape) for name, tensor in layout(spec).tensors.items()}


@lru_cache(maxsize=128)
def is_whole(spec: NetworkSpec, plan: Plan) -> bool:
    """Whether a part is the whole state in its own order, so that there is nothing to cut."""
    blocks = submodel(spec, plan).values()
    complete = all(block.runs == tuple(((0, size),) for size in block.shape) for block in blocks)
    return complete and [block.source for block in blocks] == list(layout(spec).tensors)
