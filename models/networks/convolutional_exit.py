"""ScaleFL's early exit (CVPR 2023; git-disl/scale-fl, commit c2084e4, models/resnet.py).

Three 3 x 3 convolutions that keep the channels and the resolution, each with Scaler, norm and ReLU, stand between an
early stage and its pooled classifier: 27,840 parameters of 28,170 at 32 channels and 10 classes, where a plain exit has
330.
"""

from __future__ import annotations

from torch import nn

from models.networks.builder import Builder

CONVOLUTIONS = 3


def convolutions(builder: Builder, stream: str, ready: nn.Module) -> nn.Sequential:
    """(N, C, H, W) of a stage → the same, more abstract.

    Args:
        builder: makes the layers.
        stream: axis of the stage's features.
        ready: what they need first (a pre-activation network's norm).
    """
    layers = [
        nn.Sequential(builder.conv(stream, stream, 3, padding=1, bias=False), builder.norm(stream), nn.ReLU())
        for _ in range(CONVOLUTIONS)
    ]
    return nn.Sequential(ready, *layers)
