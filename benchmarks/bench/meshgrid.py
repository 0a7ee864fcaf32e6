"""HeteroFL's published averaging, transcribed plainly: index grids, a full count, client by client."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.algebra.submodel import Submodel, coordinates


def meshgrid_average(
    state: dict[str, Tensor], parts: Sequence[Submodel], differences: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the state after averaging; units are picked by `torch.meshgrid` on the first two dimensions."""
    local = [part.split(flat) for part, flat in zip(parts, differences, strict=True)]
    result = {}
    for name, tensor in state.items():
        total, count = torch.zeros_like(tensor), torch.zeros_like(tensor)
        for part, values in zip(parts, local, strict=True):
            kept = [coordinates(runs) for runs in part[name].runs[:2]]
            at = torch.meshgrid(kept, indexing="ij") if len(kept) > 1 else (kept[0],)
            total[at] += values[name]
            count[at] += 1
        covered = count > 0
        total[covered] = total[covered].div_(count[covered])
        result[name] = tensor + total
    return result
