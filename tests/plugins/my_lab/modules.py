"""An ordinary module: it imports PyTorch and nothing of Flotilla."""

import torch
from torch import nn


class Block(nn.Module):
    """A residual block whose branch is a depthwise convolution between two others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), nn.BatchNorm2d(hidden)),
            *(nn.ReLU6(inplace=True), nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → the same."""
        return x + self.layers(x)


class Inverted(nn.Module):
    """Two inverted residual blocks, then features that are flattened."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_shape[0], 12, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([Block(12), Block(12)])
        self.last = nn.Linear(12 * 4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.last(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))
