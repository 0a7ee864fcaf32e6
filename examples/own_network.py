"""A network of one's own: a plain function of a builder.

Layers are made by the builder, which knows how many units a device keeps. Every width gets a name (an axis); layers
that share a width share its name, so they are cut together. That is all that methods read.

    python examples/own_network.py                                   # what each tier holds of it
    flotilla run --with examples/own_network.py --run-config 'model="own_network:make"'
"""

from __future__ import annotations

from fractions import Fraction

from flotilla.models import Along, Builder, NetworkSpec, Plan, build_part, completed, submodel
from torch import nn


def make(builder: Builder) -> nn.Module:
    """Depthwise-separable convolutions for small images: (N, C, H, W) → logits (N, classes)."""
    _, height, width = builder.spec.input_shape
    first, second = builder.axis("first", 16), builder.axis("second", 32)
    return nn.Sequential(
        builder.conv("image", first, 3, padding=1, bias=False),
        builder.norm(first),
        nn.ReLU(),
        builder.depthwise(first, 3, padding=1),
        builder.conv(first, second, 1, bias=False),
        builder.norm(second),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        builder.classifier(Along(second, inner=(height // 2) * (width // 2))),
    )


def main() -> None:
    """Print what is left of the network at some widths."""
    network = completed(NetworkSpec("own_network:make", (1, 8, 8), 10))
    for rate in (Fraction(1), Fraction(1, 2), Fraction(1, 4)):
        part = build_part(network, Plan(rate))
        print(
            f"width {rate}: {submodel(network, Plan(rate)).numel:,} coordinates, {part[0].out_channels} first channels"
        )


if __name__ == "__main__":
    main()
