"""Networks with a state in them, and full states in which only a part is not zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import Submodel


def loaded(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A network with a state, for evaluation."""
    network.load_state_dict(state)
    return network.eval()


def rest_at_zero_of(part: Submodel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The full state with zeros where the part holds nothing."""
    zeroed = {}
    for name, block in part.items():
        tensor = torch.zeros_like(state[name])
        held = torch.ones_like(tensor, dtype=torch.bool)
        for dim, index in enumerate(block.indices):
            if index is not None:
                other = torch.ones(tensor.shape[dim], dtype=torch.bool)
                other[index] = False
                held.index_fill_(dim, other.nonzero().flatten(), False)
        zeroed[name] = torch.where(held, state[name], tensor)
    return zeroed
