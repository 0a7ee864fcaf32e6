"""Multi-layer perceptron: flatten, then [linear, norm, ReLU] per hidden layer, then the classifier."""

from __future__ import annotations

from functools import partial
from math import prod

from torch import nn

from models.algebra.axes import Along, Axis
from models.algebra.groups import FEATURES
from models.networks.builder import IMAGE, Builder, ends
from models.networks.network import ROWS, Network
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.networks.staged import Staged


def _axes(spec: NetworkSpec) -> dict[str, Axis]:
    hidden = {f"hidden{i}": Axis(f"hidden{i}", width, group=FEATURES) for i, width in enumerate(spec.widths, 1)}
    return ends(spec) | hidden


class MLP(Staged):
    """x (N, C, H, W), (N, C, T) or (N, features) → logits (N, classes); one stage per hidden layer."""

    def __init__(self, builder: Builder) -> None:
        spec = builder.spec
        streams = [f"hidden{i}" for i in range(1, len(spec.widths) + 1)]

        def stage(i: int) -> nn.Module:
            inputs = streams[i - 1] if i else Along(IMAGE, inner=prod(spec.input_shape[1:]))
            return nn.Sequential(builder.linear(inputs, streams[i]), builder.norm(streams[i]), nn.ReLU())

        super().__init__(builder, [partial(stage, i) for i in range(len(streams))], streams, stem=nn.Flatten)


NETWORKS["mlp"] = Network(axes=_axes, build=MLP, widths=(200, 200), dimensions=(3, 2, ROWS))
