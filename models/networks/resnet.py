"""ResNets for small images: 3x3 stem, stages of basic blocks, exits.

- `resnet`: HeteroFL's pre-activation ResNet (§4): norm and ReLU before every convolution and before the pooling.
- `resnet-post`: the ordinary one, norm and ReLU after, as DepthFL and NeFL have it.

Width: the residual stream of a stage is one axis, so shortcuts stay aligned whatever units a plan keeps; the first
stage, which needs no projection, continues the stem's. Every block's inner convolution has an axis of its own.
The published numbers use blocks (1, 1, 1, 2): 9,622,090 parameters for 10 classes; the code released later has
(2, 2, 2, 2): 11,172,170.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from models.algebra.axes import Axis
from models.algebra.declarations import declare
from models.algebra.groups import INNER, STREAM
from models.networks.builder import IMAGE, Builder, ends
from models.networks.network import Network
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.networks.staged import Staged


def _streams(spec: NetworkSpec) -> list[str]:
    """Axis of the residual stream after every stage; stage 1 continues the stem's."""
    return [f"stream{i}" for i in range(1, len(spec.widths) + 1)]


def _axes(spec: NetworkSpec) -> dict[str, Axis]:
    axes = ends(spec)
    for stage, (stream, width, blocks) in enumerate(zip(_streams(spec), spec.widths, spec.blocks, strict=True), 1):
        axes[stream] = Axis(stream, width, group=STREAM)
        for block in range(1, blocks + 1):
            name = f"inner{stage}.{block}"
            axes[name] = Axis(name, width, group=INNER)
    return axes


class PreActivationBlock(nn.Module):
    """Basic pre-activation block: norm, ReLU, 3x3, norm, ReLU, 3x3, plus the shortcut taken after the first ReLU."""

    def __init__(self, builder: Builder, inputs: str, inner: str, outputs: str, stride: int) -> None:
        super().__init__()
        self.norm1 = builder.norm(inputs)
        self.conv1 = builder.conv(inputs, inner, 3, stride=stride, padding=1, bias=False)
        self.norm2 = builder.norm(inner)
        self.conv2 = builder.conv(inner, outputs, 3, padding=1, bias=False)
        self.shortcut = builder.conv(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None
        self.step = builder.step()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H/stride, W/stride)."""
        activated = F.relu(self.norm1(x_NCHW))
        skip = x_NCHW if self.shortcut is None else self.shortcut(activated)
        return skip + self.step(self.conv2(F.relu(self.norm2(self.conv1(activated)))))  # type: ignore[no-any-return]


class PostActivationBlock(nn.Module):
    """Basic block of the ordinary ResNet: 3x3, norm, ReLU, 3x3, norm, plus the shortcut, then ReLU."""

    def __init__(self, builder: Builder, inputs: str, inner: str, outputs: str, stride: int) -> None:
        super().__init__()
        self.conv1 = builder.conv(inputs, inner, 3, stride=stride, padding=1, bias=False)
        self.norm1 = builder.norm(inner)
        self.conv2 = builder.conv(inner, outputs, 3, padding=1, bias=False)
        self.norm2 = builder.norm(outputs)
        self.shortcut: nn.Module | None = None
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                builder.conv(inputs, outputs, 1, stride=stride, bias=False), builder.norm(outputs)
            )
        self.step = builder.step()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H/stride, W/stride)."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_NCHW)))))
        skip = x_NCHW if self.shortcut is None else self.shortcut(x_NCHW)
        return F.relu(skip + self.step(branch))


def _stages(builder: Builder, block: type[PreActivationBlock | PostActivationBlock]) -> list[Callable[[], nn.Module]]:
    """How each stage is made; a block without a projection can be left out and is numbered through the network."""
    spec, streams, number = builder.spec, _streams(builder.spec), 0
    stages: list[Callable[[], nn.Module]] = []
    inputs = streams[0]
    for stage, (stream, count) in enumerate(zip(streams, spec.blocks, strict=True), 1):
        # (axis before, its own inner axis, stride, number or 0)
        plan: list[tuple[str, str, int, int]] = []
        for i in range(1, count + 1):
            droppable = inputs == stream
            number += droppable
            stride = 2 if stage > 1 and i == 1 else 1
            plan.append((inputs, f"inner{stage}.{i}", stride, number if droppable else 0))
            inputs = stream

        def make(plan: list[tuple[str, str, int, int]] = plan, stream: str = stream) -> nn.Module:
            layers = nn.Sequential()
            for before, inner, stride, numbered in plan:
                held = builder.holds(numbered)
                layers.append(
                    declare(block(builder, before, inner, stream, stride), block=numbered) if held else nn.Identity()
                )
            return layers

        stages.append(make)
    return stages


class ResNet(Staged):
    """x (N, C, H, W) → logits; pre-activation. One stage per width, the stem belongs to the first."""

    def __init__(self, builder: Builder) -> None:
        streams = _streams(builder.spec)

        def ready(axis: str) -> nn.Module:
            return nn.Sequential(OrderedDict(norm=builder.norm(axis), relu=nn.ReLU()))

        def stem() -> nn.Module:
            return builder.conv(IMAGE, streams[0], 3, padding=1, bias=False)

        super().__init__(builder, _stages(builder, PreActivationBlock), streams, stem=stem, ready=ready, spatial=True)


class PostResNet(Staged):
    """x (N, C, H, W) → logits; post-activation, as DepthFL and NeFL use it."""

    def __init__(self, builder: Builder) -> None:
        streams = _streams(builder.spec)

        def stem() -> nn.Module:
            conv = builder.conv(IMAGE, streams[0], 3, padding=1, bias=False)
            return nn.Sequential(OrderedDict(conv=conv, norm=builder.norm(streams[0]), relu=nn.ReLU()))

        super().__init__(builder, _stages(builder, PostActivationBlock), streams, stem=stem, spatial=True)


_WIDTHS = (64, 128, 256, 512)
NETWORKS["resnet"] = Network(axes=_axes, build=ResNet, widths=_WIDTHS, blocks=(1, 1, 1, 2), smallest=8, spatial=True)
NETWORKS["resnet-post"] = Network(
    axes=_axes, build=PostResNet, widths=_WIDTHS, blocks=(2, 2, 2, 2), smallest=8, spatial=True
)
