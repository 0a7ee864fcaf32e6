"""Ordinary modules of somebody who knows nothing of this project but options, small enough to be traced in a test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.settings import Setting


class Edge(nn.Module):
    """Depthwise convolutions, squeeze and excitation, a shortcut, layer scale, and features that are flattened."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12, eps=1e-3)
        self.depthwise, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 5, 1), nn.Conv2d(5, 12, 1)
        self.point, self.norm3 = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)
        self.wider = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.scale = nn.Parameter(torch.rand(24, 1, 1))
        self.hidden, self.last = nn.Linear(24 * 4, 14), nn.Linear(14, classes)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.norm2(self.depthwise(x)))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.norm3(self.point(y))
        x = F.adaptive_avg_pool2d(self.wider(x) * self.scale, 2)
        return self.last(F.relu(self.hidden(x.flatten(1))))


class Hyphened(nn.Module):
    """Has an option of two words that its parameter is not called by, and an option alone to be told."""

    OPTIONS: Any = {"width-mult": Setting(1.0, "times as wide"), "hidden-units": Setting(8, "units")}

    def __init__(self, hidden_units: int, width_mult: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(64, int(hidden_units * width_mult)), nn.Linear(hidden_units, classes)

    def forward(self, x: Tensor) -> Any:
        return self.last(F.relu(self.hidden(x.flatten(1))))


def loose(**told: Any) -> nn.Module:
    """Passes on what it is told."""
    return Hyphened(told["hidden_units"], classes=told["num_classes"])


loose.OPTIONS = {"hidden-units": Setting(8, "units")}  # type: ignore[attr-defined]


def tall(classes: int, depth: int) -> nn.Module:
    """Wants what nobody tells it."""
    return nn.Sequential(*(nn.Linear(classes, classes) for _ in range(depth)))


class Shifted(Edge):
    """Adds a constant that is in no state: pixels' places, as positions of words are in a transformer."""

    places: Tensor

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.register_buffer("places", torch.linspace(-1, 1, 8), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + self.places)


class Attention(nn.Module):
    """Fused queries, keys and values, a class token, positions, a gate that is half of a layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patch, self.first = nn.Conv2d(1, 10, 4, 4), nn.Parameter(torch.randn(1, 1, 10))
        self.positions = nn.Parameter(torch.randn(1, 5, 10))
        self.norm, self.qkv, self.out = nn.LayerNorm(10), nn.Linear(10, 3 * 4 * 3), nn.Linear(12, 10)
        self.norm2, self.gate, self.down = nn.LayerNorm(10), nn.Linear(10, 2 * 14), nn.Linear(14, 10)
        self.head = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.positions
        n, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, length, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) * 3**-0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, -1))
        gate, up = self.gate(self.norm2(x)).chunk(2, -1)
        return self.head((x + self.down(F.silu(gate) * up))[:, 0])


class Joined(nn.Module):
    """Groups, a shuffle, concatenations, a group norm, a transposed convolution, interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.groups = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 12, 1, groups=4)
        self.norm, self.second = nn.GroupNorm(3, 6), nn.Conv2d(12, 6, 3, padding=1)
        self.up, self.third = nn.ConvTranspose2d(18, 8, 2, 2), nn.Conv2d(8, 5, 1)
        self.last = nn.Linear(18 + 5, 10)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        n, c, h, w = x.shape
        x = F.relu(self.groups(x)).view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = torch.cat([x, F.relu(self.norm(self.second(x)))], 1)
        y = F.interpolate(self.third(F.relu(self.up(x))), scale_factor=0.5, mode="nearest")
        return self.last(torch.cat([x, F.relu(y)], 1).mean((2, 3)))


class Geometry(nn.Module):
    """Two convolutions: the first pads by itself, or another module does."""

    def __init__(self, mode: Any = "zeros", dilation: int = 1, outside: bool = False, padding: Any = "same") -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1) if outside else nn.Identity()
        self.first = nn.Conv2d(1, 4, 3, padding=0 if outside else padding, padding_mode=mode, dilation=dilation)
        self.second, self.last = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Any:
        return self.last(F.relu(self.second(F.relu(self.first(self.pad(x))))).mean((2, 3)))


class Steps(nn.Module):
    """An LSTM cell by hand, a sum by letters, a weight of direction and length, a bag of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.bag = nn.Embedding(20, 6), nn.EmbeddingBag(20, 6, mode="mean")
        self.cell = nn.LSTMCell(6, 8)
        self.mix = nn.Parameter(torch.randn(8, 7))
        self.weighted = nn.utils.parametrizations.weight_norm(nn.Linear(7, 9))
        self.last = nn.Linear(9 + 6, 10)

    def forward(self, x: Tensor) -> Any:
        h = c = torch.zeros(x.shape[0], 8)
        for step in range(x.shape[1]):
            h, c = self.cell(self.words(x[:, step]), (h, c))
        y = torch.tanh(self.weighted(torch.einsum("nh,ho->no", h, self.mix)))
        return self.last(torch.cat([y, self.bag(x)], 1))


class OneHead(nn.Module):
    """Attention of one head, whose coordinates scale the products."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 6) for _ in range(3)])
        self.last = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Any:
        query, key, value = (layer(x.flatten(1, 2)) for layer in self.layers)
        return self.last(F.scaled_dot_product_attention(query, key, value).mean(1))


class Wide(nn.Module):
    """Gives as many logits as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(x.flatten(1))


class Branching(Wide):
    """Asks what the data is."""

    def forward(self, x: Tensor) -> Any:
        y = self.last(x.flatten(1))
        return y if y.sum() > 0 else -y


def broken() -> nn.Module:
    """Needs what is not there."""
    raise RuntimeError("no such file")


def nothing(classes: int) -> int:
    """Is no factory of modules."""
    return classes


class Whole(nn.Module):
    """One layer from inputs to logits: nothing can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Any:
        return self.last(x.flatten(1))


class Shortcut(nn.Module):
    """Two convolutions of a residual network, with a projection where it gets wider."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(inputs, outputs, 1, stride=stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Any:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(y + (x if self.project is None else self.project(x)))


class Residual(nn.Module):
    """Two stages of two blocks each."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.first = nn.Sequential(Shortcut(6, 6), Shortcut(6, 6))
        self.second = nn.Sequential(Shortcut(6, 8, 2), Shortcut(8, 8))
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.second(self.first(F.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Layers(nn.Module):
    """Three layers of a small transformer for images, each attention and a feed-forward network."""

    def __init__(self, classes: int = 10, norm_first: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(8, 2, 12, 0.1, batch_first=True, norm_first=norm_first) for _ in range(3)]
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def layers_last(classes: int = 10) -> nn.Module:
    """`Layers` whose norms come after the sums."""
    return Layers(classes, norm_first=False)


class Scaled(nn.Module):
    """A network that can be asked for as many units as one likes."""

    def __init__(self, classes: int, width: int = 12) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Any:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


class Adapted(nn.Module):
    """A layer that stays as it is, and what is trained beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.down, self.up = nn.Linear(64, 12), nn.Linear(64, 4), nn.Linear(4, 12)
        self.layer.requires_grad_(False)
        self.last = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Any:
        x = x.flatten(1)
        return self.last(F.relu(self.layer(x) + self.up(self.down(x))))
