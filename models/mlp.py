"""Multi-layer perceptron: flatten, then [linear, norm, ReLU] per hidden layer, then the classifier."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from models.axes import Along, Axis, declare
from models.network import CLASSES, IMAGE, NETWORKS, Builder, Network, NetworkSpec, ends


def _axes(spec: NetworkSpec) -> dict[str, Axis]:
    hidden = {f"hidden{i}": Axis(f"hidden{i}", width) for i, width in enumerate(spec.widths, 1)}
    return ends(spec) | hidden


class MLP(nn.Module):
    """x (N, C, H, W) → logits (N, classes); one stage per hidden layer."""

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        spec = builder.spec
        inputs: str | Along = Along(IMAGE, inner=prod(spec.input_shape[1:]))
        self.layers = nn.Sequential()
        for i in range(1, len(spec.widths) + 1):
            axis = f"hidden{i}"
            layer = nn.Sequential(builder.linear(inputs, axis), builder.norm(axis), nn.ReLU())
            self.layers.append(declare(layer, stage=i))
            inputs = axis
        self.classifier = declare(builder.linear(inputs, CLASSES), exit_of=len(spec.widths))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits."""
        return self.classifier(self.layers(x_NCHW.flatten(1)))  # type: ignore[no-any-return]


NETWORKS["mlp"] = Network(_axes, MLP, widths=(200, 200))
