"""Convolutional networks.

- `cnn`: HeteroFL's network for MNIST (§4): four times [3x3 convolution, scaler, norm, ReLU, 2x2 max-pool], the last
  pool left out, global average pooling, classifier; 64-128-256-512 channels.
- `cnn-flat`: two 3x3 convolutions without padding, one pool, a hidden layer on the flattened channels; 32-64-128 units.
  With norm "none" on 32x32x3 inputs it is the CIFAR-10 network of pfl-research's benchmark (1,626,442 weights).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.axes import Along, Axis, declare
from models.network import CLASSES, IMAGE, NETWORKS, Builder, Network, NetworkSpec, ends


def _conv_axes(spec: NetworkSpec) -> dict[str, Axis]:
    return ends(spec) | {f"conv{i}": Axis(f"conv{i}", width) for i, width in enumerate(spec.widths, 1)}


class CNN(nn.Module):
    """x (N, C, H, W) → logits (N, classes); one stage per convolution."""

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        inputs, last = IMAGE, len(builder.spec.widths)
        for i in range(1, last + 1):
            axis = f"conv{i}"
            conv = builder.conv(inputs, axis, 3, padding=1, bias=True)
            pool = nn.MaxPool2d(2) if i < last else nn.AdaptiveAvgPool2d(1)
            self.layers.append(declare(nn.Sequential(conv, builder.norm(axis), nn.ReLU(), pool), stage=i))
            inputs = axis
        self.classifier = declare(builder.linear(inputs, CLASSES), exit_of=last)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits."""
        return self.classifier(self.layers(x_NCHW).flatten(1))  # type: ignore[no-any-return]


def _flat_axes(spec: NetworkSpec) -> dict[str, Axis]:
    return ends(spec) | {name: Axis(name, width) for name, width in zip(_FLAT, spec.widths, strict=True)}


_FLAT = ("conv1", "conv2", "hidden")


class FlatCNN(nn.Module):
    """x (N, C, H, W) → logits (N, classes); three stages."""

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        _, height, width = builder.spec.input_shape
        pixels = ((height - 4) // 2) * ((width - 4) // 2)
        first = builder.conv(IMAGE, "conv1", 3, bias=True)
        second = builder.conv("conv1", "conv2", 3, bias=True)
        hidden = builder.linear(Along("conv2", inner=pixels), "hidden")
        self.layers = nn.Sequential(
            declare(nn.Sequential(first, builder.norm("conv1"), nn.ReLU()), stage=1),
            declare(nn.Sequential(second, builder.norm("conv2"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), stage=2),
            declare(nn.Sequential(hidden, builder.norm("hidden"), nn.ReLU()), stage=3),
        )
        self.classifier = declare(builder.linear("hidden", CLASSES), exit_of=3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits."""
        return self.classifier(self.layers(x_NCHW))  # type: ignore[no-any-return]


NETWORKS["cnn"] = Network(_conv_axes, CNN, widths=(64, 128, 256, 512), smallest=8)
NETWORKS["cnn-flat"] = Network(_flat_axes, FlatCNN, widths=(32, 64, 128), smallest=6, fixed_widths=True)
