"""Small modules as users write them, for the zoo: factories that know nothing of this project."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Recurrent(nn.Module):
    """Embedding, recurrent layers, the last step."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], vocabulary: int, classes: int, directions: int = 1) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, 14)
        self.layers = kind(14, 22, num_layers=2, batch_first=True, bidirectional=directions == 2)
        self.head = nn.Linear(22 * directions, classes)

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        return self.head(self.layers(self.words(x))[0][:, -1])


def lstm(vocabulary: int, classes: int) -> nn.Module:
    """`nn.LSTM` of two layers."""
    return Recurrent(nn.LSTM, vocabulary, classes)


def gru(vocabulary: int, classes: int) -> nn.Module:
    """`nn.GRU` of two layers."""
    return Recurrent(nn.GRU, vocabulary, classes)


def both_ways(vocabulary: int, classes: int) -> nn.Module:
    """`nn.LSTM` of two layers, in both directions."""
    return Recurrent(nn.LSTM, vocabulary, classes, 2)


class Shuffled(nn.Module):
    """Grouped convolutions, channels that are shuffled, a concatenation, an average over time at the end."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1, groups=6)
        self.norm, self.second = nn.GroupNorm(4, 24), nn.Conv2d(48, 20, 1)
        self.head = nn.Linear(20, classes)

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        x = F.relu(self.first(x))
        y = F.relu(self.norm(self.grouped(x)))
        y = y.reshape(-1, 6, 4, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.head(F.relu(self.second(torch.cat([x, y], 1))).mean((2, 3)))


class Squeezed(nn.Module):
    """Depthwise convolution, squeeze and excitation, two outputs for every channel, features that are flattened."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 20, 3, stride=2, padding=1), nn.BatchNorm2d(20)
        self.depthwise, self.squeeze, self.excite = (
            nn.Conv2d(20, 20, 3, padding=1, groups=20),
            nn.Conv2d(20, 6, 1),
            nn.Conv2d(6, 20, 1),
        )
        self.twice, self.scale = nn.Conv2d(20, 40, 3, padding=1, groups=20), nn.Parameter(torch.rand(40, 1, 1))
        self.hidden, self.head = nn.Linear(40 * 9, 26), nn.Linear(26, classes)

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        x = F.relu(self.norm(self.stem(x)))
        y = self.depthwise(x)
        x = x + y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = F.adaptive_avg_pool2d(self.twice(x) * self.scale, 3)
        return self.head(F.relu(self.hidden(x.flatten(1))))


class Fused(nn.Module):
    """Attention with one layer for queries, keys and values, a token for the class, gates and scales of layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.zeros(1, 1, 24))
        self.places, self.scale = nn.Parameter(torch.randn(1, 17, 24) / 50), nn.Parameter(torch.ones(24) / 10)
        self.norm1, self.three, self.out = nn.LayerNorm(24), nn.Linear(24, 3 * 6 * 5), nn.Linear(30, 24)
        self.norm2, self.gated, self.down = nn.LayerNorm(24), nn.Linear(24, 2 * 34), nn.Linear(34, 24)
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        query, key, value = self.three(self.norm1(x)).unflatten(2, (3, 6, 5)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.scale * self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gated(self.norm2(x)).chunk(2, 2)
        return self.head((x + self.down(F.silu(gate) * up))[:, 0])


class Adapted(nn.Module):
    """A perceptron that stays as it is, with low-rank adapters that are trained (LoRA)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3 * 32 * 32, 32), nn.Linear(32, 32)])
        self.layers.requires_grad_(False)
        self.down = nn.ModuleList([nn.Linear(3 * 32 * 32, 8, bias=False), nn.Linear(32, 8, bias=False)])
        self.up = nn.ModuleList([nn.Linear(8, 32, bias=False), nn.Linear(8, 32, bias=False)])
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        x = x.flatten(1)
        for layer, down, up in zip(self.layers, self.down, self.up, strict=True):
            x = F.relu(layer(x) + up(down(x)))
        return self.head(x)
