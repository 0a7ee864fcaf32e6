"""DepthFL's bottleneck (ICLR 2023, appendix): what stands between an early stage and its pooled classifier.

An attention gate lets the features weigh their own positions; then one stride-2 separable convolution for every stage
that is skipped brings them to the channels and the resolution of the last stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.builder import Builder


def separable(builder: Builder, inputs: str, outputs: str, stride: int) -> nn.Sequential:
    """Depthwise 3x3 (stride), pointwise, norm, ReLU, depthwise 3x3, pointwise to `outputs`, norm, ReLU."""
    return nn.Sequential(
        builder.depthwise(inputs, 3, stride=stride, padding=1),
        builder.conv(inputs, inputs, 1, bias=False),
        builder.norm(inputs),
        nn.ReLU(),
        builder.depthwise(inputs, 3, padding=1),
        builder.conv(inputs, outputs, 1, bias=False),
        builder.norm(outputs),
        nn.ReLU(),
    )


class Bottleneck(nn.Module):
    """(N, C, H, W) of a stage → channels of the last stage, halved once per stage that is skipped.

    Args:
        builder: makes the layers.
        streams: axes of this stage's features and of those of all later stages.
        ready: what the stage's features need first (a pre-activation network's norm).
    """

    def __init__(self, builder: Builder, streams: Sequence[str], ready: nn.Module) -> None:
        super().__init__()
        own = streams[0]
        self.ready = ready
        self.attention = nn.Sequential(separable(builder, own, own, 2), builder.norm(own), nn.ReLU())
        self.steps = nn.Sequential(*(separable(builder, before, after, 2) for before, after in pairwise(streams)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Gate the features by their positions, then reduce them."""
        ready = self.ready(x_NCHW)
        # To the features' own size: sides may be odd, so doubling would not always fit.
        wide = F.interpolate(self.attention(ready), size=ready.shape[2:], mode="bilinear", align_corners=False)
        return self.steps(ready * wide.sigmoid())  # type: ignore[no-any-return]
