"""Dropout in front of the factor A, as LoRA has it, from a generator that whoever trains puts there.

Without one nothing is left out: when a network is scored, checked, asked for statistics or exported, also in training
mode. So the training path alone has dropout, and its draws are those of (seed, round, node, purpose).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DROPOUT = "lora_dropout"


class Dropout(nn.Module):
    """Leaves out each input with a probability, and multiplies the others by 1/(1 - p).

    Args:
        probability: p, of 0 to less than 1.

    Attributes:
        draws: where draws come from, on the CPU; None leaves nothing out.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.draws: torch.Generator | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of any shape."""
        if self.draws is None:
            return inputs
        kept = torch.rand(inputs.shape, generator=self.draws, device="cpu") >= self.probability
        return inputs * kept.to(inputs.device) / (1 - self.probability)


@contextmanager
def dropping(network: nn.Module, draws: torch.Generator | None) -> Iterator[None]:
    """Let a network's dropout draw from a generator, within; None: nothing is left out."""
    found = [module for module in network.modules() if isinstance(module, Dropout)]
    before = [one.draws for one in found]
    for one in found:
        one.draws = draws
    try:
        yield
    finally:
        for one, draws_before in zip(found, before, strict=True):
            one.draws = draws_before


def draws_of(network: nn.Module) -> torch.Generator | None:
    """Where a network's dropout draws from at the moment."""
    return next((module.draws for module in network.modules() if isinstance(module, Dropout)), None)
