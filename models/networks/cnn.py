"""Convolutional networks.

- `cnn`: HeteroFL's network for MNIST (§4): four times [3x3 convolution, scaler, norm, ReLU, 2x2 max-pool], the last
  pool left out, global average pooling, classifier; 64-128-256-512 channels.
- `cnn-strided`: the same with convolutions of stride 2 instead of pools, and group norm, which needs no statistics:
  what trainers on devices can differentiate (docs/models-out.md).
- `cnn-flat`: two 3x3 convolutions without padding, one pool, a hidden layer on the flattened channels; 32-64-128 units.
  With norm "none" on 32x32x3 inputs it is the CIFAR-10 network of pfl-research's benchmark (1,626,442 weights).

Pools stand before ReLUs: the same numbers and gradients, bit for bit, with fewer of them to rectify.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from models.algebra.axes import Along, Axis
from models.algebra.groups import CHANNELS, FEATURES
from models.networks.builder import IMAGE, Builder, ends
from models.networks.memory_order import PositionsInnermost
from models.networks.network import Network
from models.networks.pool import MaxPool2x2
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.networks.staged import Staged


def _conv_axes(spec: NetworkSpec) -> dict[str, Axis]:
    return ends(spec) | {f"conv{i}": Axis(f"conv{i}", width, group=CHANNELS) for i, width in enumerate(spec.widths, 1)}


class CNN(Staged):
    """x (N, C, H, W) → logits (N, classes); one stage per convolution.

    Args:
        builder: makes the layers.
        strided: whether convolutions halve the sides, else pools after them do; the last one leaves them.
    """

    def __init__(self, builder: Builder, *, strided: bool = False) -> None:
        last = len(builder.spec.widths)
        streams = [f"conv{i}" for i in range(1, last + 1)]

        def stage(i: int) -> nn.Module:
            inputs, halves = streams[i - 1] if i else IMAGE, i < last - 1  # exits pool what is left
            conv = builder.conv(inputs, streams[i], 3, stride=2 if halves and strided else 1, padding=1, bias=True)
            pool = MaxPool2x2() if halves and not strided else nn.Identity()
            return nn.Sequential(conv, builder.norm(streams[i]), pool, nn.ReLU())

        super().__init__(builder, [partial(stage, i) for i in range(last)], streams, spatial=True)


def _flat_axes(spec: NetworkSpec) -> dict[str, Axis]:
    return ends(spec) | {
        name: Axis(name, width, group=group) for (name, group), width in zip(_FLAT.items(), spec.widths, strict=True)
    }


_FLAT = {"conv1": CHANNELS, "conv2": CHANNELS, "hidden": FEATURES}


class FlatCNN(Staged):
    """x (N, C, H, W) → logits (N, classes); three stages."""

    def __init__(self, builder: Builder) -> None:
        _, height, width = builder.spec.input_shape
        pixels = ((height - 4) // 2) * ((width - 4) // 2)

        def first() -> nn.Module:
            return nn.Sequential(builder.conv(IMAGE, "conv1", 3, bias=True), builder.norm("conv1"), nn.ReLU())

        def second() -> nn.Module:
            conv = builder.conv("conv1", "conv2", 3, bias=True)
            return nn.Sequential(conv, builder.norm("conv2"), MaxPool2x2(), PositionsInnermost(), nn.ReLU())

        def third() -> nn.Module:
            hidden = builder.linear(Along("conv2", inner=pixels), "hidden")
            return nn.Sequential(nn.Flatten(), hidden, builder.norm("hidden"), nn.ReLU())

        super().__init__(builder, [first, second, third], list(_FLAT))


NETWORKS["cnn"] = Network(axes=_conv_axes, build=CNN, widths=(64, 128, 256, 512), smallest=8, spatial=True)
NETWORKS["cnn-flat"] = Network(axes=_flat_axes, build=FlatCNN, widths=(32, 64, 128), smallest=6, fixed_widths=True)
NETWORKS["cnn-strided"] = Network(
    axes=_conv_axes, build=partial(CNN, strided=True), widths=(64, 128, 256, 512), spatial=True, norms=("group", "none")
)
