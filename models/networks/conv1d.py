"""1-d convolutional network for signals: [convolution of 5 steps, norm, ReLU, max-pool by 2] per stage, classifier.

As `models.networks.cnn` has it for images, the last pool is left out and exits average over the time that is left.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from models.algebra.axes import Axis
from models.algebra.declarations import declare
from models.algebra.groups import CHANNELS
from models.networks.builder import IMAGE, Builder, ends
from models.networks.network import Network
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.networks.staged import Staged

_KERNEL = 5  # steps of time


class _Conv1d(nn.Conv1d):
    def reset_parameters(self) -> None:
        """Leave the weights: a default draw would take numbers from the global generator, only to be overwritten."""


def _streams(spec: NetworkSpec) -> list[str]:
    return [f"conv{i}" for i in range(1, len(spec.widths) + 1)]


def _axes(spec: NetworkSpec) -> dict[str, Axis]:
    return ends(spec) | {
        name: Axis(name, width, group=CHANNELS) for name, width in zip(_streams(spec), spec.widths, strict=True)
    }


def _conv(builder: Builder, inputs: str, outputs: str) -> nn.Conv1d:
    layer = _Conv1d(builder.size(inputs), builder.size(outputs), _KERNEL, padding=_KERNEL // 2)
    return declare(layer, {"weight": (outputs, inputs, None), "bias": (outputs,)})


class CNN1d(Staged):
    """x (N, C, T) → logits (N, classes); one stage per convolution."""

    def __init__(self, builder: Builder) -> None:
        streams = _streams(builder.spec)
        last = len(streams) - 1

        def stage(i: int) -> nn.Module:
            conv = _conv(builder, streams[i - 1] if i else IMAGE, streams[i])
            pool = nn.MaxPool1d(2) if i < last else nn.Identity()
            return nn.Sequential(conv, builder.norm(streams[i]), nn.ReLU(), pool)

        super().__init__(builder, [partial(stage, i) for i in range(last + 1)], streams)


NETWORKS["cnn1d"] = Network(axes=_axes, build=CNN1d, widths=(64, 128, 256), dimensions=(2,), smallest=4)
