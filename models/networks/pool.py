"""Max-pooling in windows of two by two: PyTorch's numbers, several times as fast where nothing is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MaxPool2x2(nn.MaxPool2d):
    """x (N, C, H, W) → (N, C, H // 2, W // 2); the last row or column of an odd side is left out.

    PyTorch's operation finds where each maximum stands, number by number, for a backward pass. Without one the maximum
    of rows, then of columns, is the same numbers by vector instructions.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        small = min(x.shape[-2:]) < 2  # of which the error is PyTorch's
        return super().forward(x) if torch.is_grad_enabled() or small or _traced(x) else _largest(x)


class PositionsInnermost(nn.Module):
    """The same numbers, with channels outside of positions in memory, as what is flattened has them.

    Stands between a pool and its ReLU: the latter's backward pass is slow where its two inputs have different orders,
    and the pool's copies all of its features where the gradient has another order than they.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        turn = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last) and not _traced(x)
        return _Turned.apply(x) if turn else x.contiguous()  # type: ignore[no-untyped-call]


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


def _traced(x: Tensor) -> bool:
    """Whether somebody writes down what is done, who is to read a pool; or computes elsewhere than on a CPU."""
    return type(x) is not Tensor or not x.is_cpu or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _largest(x: Tensor) -> Tensor:
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    rows = torch.maximum(x[..., :height:2, :], x[..., 1:height:2, :])
    return torch.maximum(rows[..., :width:2], rows[..., 1:width:2])
