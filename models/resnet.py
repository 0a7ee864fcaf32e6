"""HeteroFL's pre-activation ResNet for small images (§4): 3x3 stem, stages of basic blocks, norm, pool, classifier.

Width: the residual stream of a stage is one axis, so shortcuts stay aligned whatever units a plan keeps; the first
stage, which needs no projection, continues the stem's. Every block's inner convolution has an axis of its own.
The published numbers use blocks (1, 1, 1, 2): 9,622,090 parameters for 10 classes; the code released later has
(2, 2, 2, 2): 11,172,170.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.axes import Axis, declare
from models.network import CLASSES, IMAGE, NETWORKS, Builder, Network, NetworkSpec, ends


def _streams(spec: NetworkSpec) -> list[str]:
    """Axis of the residual stream after every stage; stage 1 continues the stem's."""
    return [f"stream{i}" for i in range(1, len(spec.widths) + 1)]


def _axes(spec: NetworkSpec) -> dict[str, Axis]:
    axes = ends(spec)
    for stage, (stream, width, blocks) in enumerate(zip(_streams(spec), spec.widths, spec.blocks, strict=True), 1):
        axes[stream] = Axis(stream, width)
        for block in range(1, blocks + 1):
            name = f"inner{stage}.{block}"
            axes[name] = Axis(name, width)
    return axes


class Block(nn.Module):
    """Basic pre-activation block: norm, ReLU, 3x3, norm, ReLU, 3x3, plus the shortcut taken after the first ReLU."""

    def __init__(self, builder: Builder, inputs: str, inner: str, outputs: str, stride: int) -> None:
        super().__init__()
        self.norm1 = builder.norm(inputs)
        self.conv1 = builder.conv(inputs, inner, 3, stride=stride, padding=1, bias=False)
        self.norm2 = builder.norm(inner)
        self.conv2 = builder.conv(inner, outputs, 3, padding=1, bias=False)
        project = stride != 1 or inputs != outputs
        self.shortcut = builder.conv(inputs, outputs, 1, stride=stride, bias=False) if project else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H/stride, W/stride)."""
        activated = F.relu(self.norm1(x_NCHW))
        skip = x_NCHW if self.shortcut is None else self.shortcut(activated)
        y: Tensor = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return y + skip


class ResNet(nn.Module):
    """x (N, C, H, W) → logits (N, classes); one stage per width, the stem belongs to the first."""

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        spec, streams = builder.spec, _streams(builder.spec)
        self.stem = declare(builder.conv(IMAGE, streams[0], 3, padding=1, bias=False), stage=1)
        self.stages = nn.Sequential()
        inputs = streams[0]
        for stage, (stream, blocks) in enumerate(zip(streams, spec.blocks, strict=True), 1):
            layers = nn.Sequential()
            for block in range(1, blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                layers.append(Block(builder, inputs, f"inner{stage}.{block}", stream, stride))
                inputs = stream
            self.stages.append(declare(layers, stage=stage))
        last = len(streams)
        self.norm = declare(builder.norm(inputs), exit_of=last)
        self.classifier = declare(builder.linear(inputs, CLASSES), exit_of=last)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits."""
        features_NCHW = F.relu(self.norm(self.stages(self.stem(x_NCHW))))
        return self.classifier(features_NCHW.mean((2, 3)))  # type: ignore[no-any-return]


NETWORKS["resnet"] = Network(_axes, ResNet, widths=(64, 128, 256, 512), blocks=(1, 1, 1, 2), smallest=8)
