"""Where channels stand in memory: with positions outside of them ("channels last"), or innermost, by turns.

A training loop hands its inputs over with channels innermost where that is faster (`protocol.memory_format`), and
features stay so until a layer turns them. On a CPU that pays where convolutions are narrow. Wide ones have large
weights, which PyTorch 2.13 turns into the features' order in every forward and backward pass: with 512 channels of 4x4
positions that costs twice what the convolution does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Channels up to which a convolution is faster with them innermost, with batches of 10, by 5 to 20 % on CPUs with
# AVX-512; beyond it is slower by as much. A constant, as whoever decides must not depend on a machine.
MOST_CHANNELS = 128


def is_narrow(convolution: nn.Conv2d) -> bool:
    """Whether a convolution is faster with channels innermost."""
    return max(convolution.in_channels, convolution.out_channels) <= MOST_CHANNELS


def turned(x: Tensor) -> Tensor:
    """The same numbers with positions innermost, where channels are; the gradient goes the other way.

    Args:
        x: features (N, C, H, W).
    """
    turn = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last) and not is_traced(x)
    return _Turned.apply(x) if turn else x  # type: ignore[no-untyped-call]


def is_traced(x: Tensor) -> bool:
    """Whether somebody writes down what is done, to read ordinary layers; or computes elsewhere than on a CPU."""
    return type(x) is not Tensor or not x.is_cpu or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


class PositionsInnermost(nn.Module):
    """Features with positions innermost, as what is flattened has them.

    Stands between a pool and its ReLU: the latter's backward pass is slow where its two inputs have different orders,
    and the pool's copies all of its features where the gradient has another order than they.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return turned(x).contiguous()


class _Turned(torch.autograd.Function):
    """From channels innermost to positions innermost; the gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        del ctx
        return dy.contiguous(memory_format=torch.channels_last)
