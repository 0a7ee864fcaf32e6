"""Max-pooling in windows of two by two: PyTorch's numbers, several times as fast where nothing is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.networks.memory_order import is_traced


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
        return super().forward(x) if torch.is_grad_enabled() or small or is_traced(x) else _largest(x)


def _largest(x: Tensor) -> Tensor:
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    rows = torch.maximum(x[..., :height:2, :], x[..., 1:height:2, :])
    return torch.maximum(rows[..., :width:2], rows[..., 1:width:2])
