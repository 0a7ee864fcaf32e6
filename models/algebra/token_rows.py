"""The rows of a part that stand for given tokens: what a device that has seen only these has learnt something about."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from models.algebra.axes import Along, Kind, Layout, TensorLayout
from models.algebra.submodel import Block, Submodel, merged


def counts_tokens(layout: Layout) -> bool:
    """Whether some tensor has rows of tokens."""
    return any(_place(tensor, layout) is not None for tensor in layout.tensors.values())


def rows_of(part: Submodel, layout: Layout, tokens: Collection[int]) -> tuple[Submodel, Tensor]:
    """A part without the rows of other tokens; tensors that count none stay whole.

    Args:
        part: what a device holds.
        layout: of the full network.
        tokens: that it has.

    Returns:
        The smaller part, and where its coordinates are among those of the part (int64 [numel]), in its order.

    Raises:
        ValueError: a token that the network does not have.
    """
    kept = sorted(set(tokens))
    blocks: dict[str, Block] = {}
    places: list[Tensor] = []
    start = 0
    for name, block in part.items():
        flat = torch.arange(start, start + block.numel)
        start += block.numel
        place = _place(layout.tensors[block.source], layout)
        if place is not None:
            if kept and not 0 <= kept[0] <= kept[-1] < block.shape[place]:
                raise ValueError(f"tokens must be among 0 to {block.shape[place] - 1}, got {kept[0]} to {kept[-1]}")
            if not kept:
                continue
            rows = torch.tensor(kept)
            flat = flat.view(block.local_shape).index_select(place, rows).reshape(-1)
            runs = list(block.runs)
            runs[place] = merged(tuple((token, 1) for token in kept))
            mask = None if block.mask is None else block.mask.index_select(place, rows)
            block = replace(block, runs=tuple(runs), mask=mask)
        blocks[name] = block
        places.append(flat)
    return Submodel(blocks, part.sizes), torch.cat(places) if places else torch.zeros(0, dtype=torch.int64)


def _place(tensor: TensorLayout, layout: Layout) -> int | None:
    """The dimension that runs along the tokens, which no plan cuts; None if there is none."""
    for place, dim in enumerate(tensor.dims):
        if isinstance(dim, Along) and layout.axes[dim.axis].kind is Kind.TOKEN and dim.outer == dim.inner == 1:
            return place
    return None
