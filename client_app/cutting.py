"""A part, cut out of the flat vector of the whole state.

By the boxes of its tensors; and a small part that is asked for again, as a tier's is by each of its clients, by its
places in the vector. By boxes every tensor costs some microseconds, however small it is: the smaller tiers of the
default network, of 14 tensors, take 170 to 310 µs so, and 2 to 55 by places (one core of an AMD EPYC).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.plans import Plan
from models.algebra.submodel import Submodel, flatten, split
from models.networks.build import layout, submodel
from models.networks.spec import NetworkSpec
from models.recent import Recent

# Coordinates of a part up to which places were faster in the network above.
MOST = 1 << 17
_KEPT = 32  # parts whose places a process keeps: at most 32 MiB of them


@dataclass(slots=True)
class _Known:
    asked: bool = False
    places: Tensor | None = None


_known = Recent[tuple[NetworkSpec, Plan], _Known](_KEPT)


def cut(spec: NetworkSpec, plan: Plan, full: Tensor, out: Tensor) -> Tensor:
    """Write a part into a vector, and return that.

    Args:
        spec: the full network.
        plan: the part, of which every weight is kept (`plan.keep` is 1).
        full: the whole state, flat.
        out: of the part's length.

    Raises:
        ValueError: one of the two is of another length.
    """
    part, whole = submodel(spec, plan), layout(spec)
    if part.numel > MOST or full.shape != (whole.parameters,) or out.shape != (part.numel,):
        return _by_boxes(part, whole, full, out)
    known = _known((spec, plan), _Known)
    if not known.asked:  # what a round draws for one client is asked for once
        known.asked = True
        return _by_boxes(part, whole, full, out)
    if known.places is None:
        known.places = _places(part, whole)
    return torch.index_select(full, 0, known.places, out=out)


def _by_boxes(part: Submodel, whole: Layout, full: Tensor, out: Tensor) -> Tensor:
    return flatten(part.gather(split(full, whole.shapes)), out=out)


def _places(part: Submodel, whole: Layout) -> Tensor:
    starts, end = dict[str, int](), 0
    for name, tensor in whole.tensors.items():
        starts[name] = end
        end += prod(tensor.shape)
    return torch.cat([starts[block.source] + block.places() for block in part.values()])


@lru_cache(maxsize=128)
def is_whole(spec: NetworkSpec, plan: Plan) -> bool:
    """Whether a part is the whole state in its own order, so that there is nothing to cut."""
    blocks = submodel(spec, plan).values()
    complete = all(block.runs == tuple(((0, size),) for size in block.shape) for block in blocks)
    return complete and [block.source for block in blocks] == list(layout(spec).tensors)
