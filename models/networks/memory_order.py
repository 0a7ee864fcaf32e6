"""The order of features in memory: channels innermost ("channels last"), or positions (contiguous).

A training loop hands its inputs over with channels innermost where that is faster (`protocol.memory_format`), and
features stay so until a layer turns them. Narrow convolutions are faster so on CPUs: by 5 to 20 % with batches of 10
and AVX-512. Wide ones are not: PyTorch 2.13 brings their weights into the features' order in every forward and backward
pass, which with 256 channels costs what the order spares, and with 512 of 4x4 positions as much as the convolution
(timed by hand). And one kind of convolution is not to meet channels innermost in few of them (`skips_positions`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels up to which a convolution is narrow. A constant, as whoever decides must not depend on a machine.
MOST_CHANNELS = 128
# Channels of oneDNN's blocks, with the widest vectors that it has.
_BLOCK = 16


def is_narrow(convolution: nn.Conv2d) -> bool:
    """Whether a convolution is faster with channels innermost; of a depthwise one nothing was measured."""
    return max(convolution.in_channels, convolution.out_channels) <= MOST_CHANNELS


def turned(x: Tensor) -> Tensor:
    """The same numbers with positions innermost, where channels are; the gradient goes the other way.

    Args:
        x: features (N, C, H, W).
    """
    if is_traced(x) or x.ndim != 4 or x.stride(1) != 1 or x.stride(3) == 1:
        return x
    return _Turned.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def is_traced(x: Tensor) -> bool:
    """Whether somebody writes down what is done, to read ordinary layers; or computes elsewhere than on a CPU."""
    return type(x) is not Tensor or not x.is_cpu or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def skips_positions(convolution: nn.Conv2d) -> bool:
    """Whether it is a 1x1 convolution with a stride, which does not read all positions.

    With channels innermost, and fewer of them than a block has (`is_unsafe`), the gradient of its weights is not to be
    had from oneDNN (3.12, as in PyTorch 2.13), which copies the positions that are read to where there is too little
    room: the process dies, never ends, or goes on with wrong numbers. Seen with AVX2 and fewer than 8 channels; the
    code for AVX-512 has blocks of 16. https://github.com/uxlfoundation/oneDNN/issues/6035
    """
    one = convolution.kernel_size == (1, 1) and convolution.padding in ((0, 0), "valid")
    return one and convolution.stride != (1, 1) and convolution.groups == 1


def is_unsafe(convolution: nn.Conv2d) -> bool:
    """Whether features with channels innermost are to go through `picked` first."""
    return convolution.in_channels < _BLOCK and skips_positions(convolution)


def picked(x: Tensor, stride: tuple[int, ...]) -> Tensor | None:
    """The positions that a 1x1 convolution with a stride reads, channels innermost; None where they are not.

    Args:
        x: features (N, C, H, W); of a single channel both orders may be the same.
        stride: of the convolution.
    """
    if is_traced(x) or x.ndim != 4 or x.stride(1) != 1:
        return None
    # A slice would keep the order neither of features of odd height nor of the gradient.
    return F.avg_pool2d(x, 1, stride)


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

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        # `contiguous` would leave features of a single position as they are.
        return torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        del ctx
        return dy.contiguous(memory_format=torch.channels_last)
