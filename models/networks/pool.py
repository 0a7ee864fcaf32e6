"""Max-pooling in windows of two by two: PyTorch's numbers, several times as fast where nothing is trained."""

from __future__ import annotations

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
        return super().forward(x) if torch.is_grad_enabled() or _traced(x) else _largest(x)


class PositionsInnermost(nn.Module):
    """The same numbers, with channels outside of positions in memory, as what is flattened has them.

    Stands before the ReLU: with the two in different orders that one's backward pass takes six times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.contiguous()


def _traced(x: Tensor) -> bool:
    """Whether somebody writes down what is done, who is to read a pool; or computes elsewhere than on a CPU."""
    return type(x) is not Tensor or not x.is_cpu or torch.compiler.is_compiling()


def _largest(x: Tensor) -> Tensor:
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    rows = torch.maximum(x[..., :height:2, :], x[..., 1:height:2, :])
    return torch.maximum(rows[..., :width:2], rows[..., 1:width:2])
