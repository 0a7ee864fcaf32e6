"""Which weights count by their size (FIARSE, NeurIPS 2024): those whose magnitude reaches a threshold.

The threshold keeps a share of the weights and biases of convolutions, linear layers and embeddings over the whole
network; norms and step sizes are always kept. It depends on nothing but the state, so a server and a device that have
the same state find the same mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.submodel import Block, Submodel


def competing_tensors(layout: Layout) -> list[str]:
    """The tensors whose coordinates compete: parameters that belong to no norm and are no step size."""
    return [name for name, tensor in layout.tensors.items() if not tensor.role and not tensor.buffer]


def threshold(state: Mapping[str, Tensor], layout: Layout, keep: Fraction) -> float:
    """Find the magnitude that the largest `keep` of the weights reach; ties are all kept.

    Args:
        state: the whole state, or the same with zeros outside the mask, which gives the same threshold.
        layout: its declaration.
        keep: share of the weights, in (0, 1]; of n weights, ceil(keep·n) are kept.
    """
    sizes = torch.cat([state[name].detach().abs().flatten() for name in competing_tensors(layout)]).cpu().numpy()
    place = len(sizes) - ceil(keep * len(sizes))
    sizes.partition(place)  # several times faster than torch.topk and torch.kthvalue
    return float(sizes[place])


def masked(part: Submodel, state: Mapping[str, Tensor], layout: Layout, keep: Fraction) -> Submodel:
    """The submodel with an element mask on every tensor whose coordinates compete."""
    if keep == 1:
        return part
    least, competing = threshold(state, layout, keep), set(competing_tensors(layout))
    blocks = {
        name: Block(
            source=block.source,
            shape=block.shape,
            runs=block.runs,
            mask=block.gather(state[block.source]).abs() >= least,
        )
        if block.source in competing
        else block
        for name, block in part.items()
    }
    return Submodel(blocks, part.sizes)
