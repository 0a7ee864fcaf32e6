"""Weights of a base that are held in fewer bits than float32, layer by layer.

int8: a weight W of (m, n) is whole numbers q in -127 to 127 and a scale s for every output row, W ≈ s·q with
s = max |W row| / 127, so that no coordinate is off by more than s/2. bfloat16: the nearest such number. Where a layer
is used, forward or backward, its weight is made float32 for that moment. Inputs have gradients, the base has none.

Every operation is one on single numbers, rounded as IEEE says, so that machines have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adapters.frozen import frozen_tensors, hold
from models.algebra.precisions import BFLOAT16

SCALE = "weight_scale"  # beside a layer's weight
_LEVELS = 127
_NOTHING = 1e-30  # a row that is smaller is zero: its scale would be of fewer bits, or none


class Lowered(NamedTuple):
    """A weight (m, n) in fewer bits: `codes`, and the `scale` (m, 1) of every row; a scale of () is none."""

    codes: Tensor
    scale: Tensor


@torch.no_grad()
def lowered(weight: Tensor, precision: str) -> Lowered:
    """A weight (m, n) of float32 in fewer bits."""
    if precision == BFLOAT16:
        return Lowered(weight.to(torch.bfloat16), torch.ones((), device=weight.device))
    largest = weight.abs().amax(1, keepdim=True)
    scale = torch.where(largest > _NOTHING, largest / _LEVELS, torch.ones_like(largest))
    return Lowered((weight / scale).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8), scale)


def raised(codes: Tensor, scale: Tensor) -> Tensor:
    """The weight that is computed with, float32."""
    return codes.to(torch.float32).mul_(scale)


class _Held(torch.autograd.Function):
    """A linear layer whose weight is float32 only while it is multiplied with."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.kind = inputs.dtype
        return F.linear(inputs, raised(codes, scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        weight = raised(*ctx.saved_tensors)
        return (gradient @ weight.to(gradient.dtype)).to(ctx.kind), None, None, None


def held_linear(inputs: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Inputs (..., n) → inputs·Wᵀ + bias (..., m), of a weight that nobody trains; the bias is none that is trained."""
    found: Tensor = _Held.apply(inputs, codes, scale, bias)  # type: ignore[no-untyped-call]
    return found


class HeldLinear(nn.Linear):
    """What a linear layer becomes whose weight is held in fewer bits; `hold_lower` makes it of one."""

    def forward(self, input: Tensor) -> Tensor:
        """Inputs (..., n) → (..., m)."""
        return held_linear(input, self.weight, getattr(self, SCALE), self.bias)


def can_be_lower(network: nn.Module, trained: Callable[[str], bool]) -> list[str]:
    """Layers of a network, by name, whose weight is not trained and is only ever multiplied with.

    These are linear layers whose `forward` is PyTorch's, and what a graph is ready for (`models.foreign.lower`).
    """
    return [
        path
        for path, module in network.named_modules()
        if (
            isinstance(module, nn.Linear)
            and type(module).forward is nn.Linear.forward
            and not any(trained(f"{path}.{leaf}") for leaf in ("weight", "bias"))
        )
        or SCALE in module._buffers
    ]


def hold_lower(module: nn.Module, weight: Lowered) -> None:
    """Give a module a weight in fewer bits in place of the one that it holds; a linear layer then computes with it."""
    for leaf, tensor in (("weight", weight.codes), (SCALE, weight.scale)):
        hold(module, leaf, tensor)
    if isinstance(module, nn.Linear):
        module.__class__ = HeldLinear


def lower_weights(network: nn.Module) -> dict[str, Lowered]:
    """What a network holds in fewer bits, by the name of the weight."""
    return {
        f"{path}.weight": Lowered(module._buffers["weight"], module._buffers[SCALE])
        for path, module in network.named_modules()
        if SCALE in module._buffers
    }


def frozen_values(network: nn.Module) -> dict[str, Tensor]:
    """What a network computes with of its base, float32, by the base's names."""
    lower = lower_weights(network)
    scales = {f"{name.rpartition('.')[0]}.{SCALE}" for name in lower}
    return {
        name: raised(*lower[name]) if name in lower else tensor
        for name, tensor in frozen_tensors(network).items()
        if name not in scales
    }
