"""Two networks: one that is declared as Flotilla's own are, and one that is a plain function of a builder."""

from functools import partial

from flotilla.models import Along, Axis, Builder, Network, NetworkSpec
from flotilla.models.networks.builder import IMAGE, ends
from flotilla.models.networks.staged import Staged
from flotilla.models.settings import Setting, between
from torch import nn


def _axes(spec: NetworkSpec) -> dict[str, Axis]:
    return ends(spec) | {f"block{i}": Axis(f"block{i}", width) for i, width in enumerate(spec.widths, 1)}


class Separable(Staged):
    """Convolutions of every channel by itself, then across channels; a stage each."""

    def __init__(self, builder: Builder) -> None:
        streams = [f"block{i}" for i in range(1, len(builder.spec.widths) + 1)]

        def stage(i: int) -> nn.Module:
            across = builder.conv(streams[i - 1] if i else IMAGE, streams[i], 1, bias=False)
            alone = builder.depthwise(streams[i], 3, padding=1)
            return nn.Sequential(across, alone, builder.norm(streams[i]), nn.ReLU())

        super().__init__(builder, [partial(stage, i) for i in range(len(streams))], streams, spatial=True)


separable = Network(axes=_axes, build=Separable, widths=(8, 16), smallest=4, spatial=True)


def perceptron(builder: Builder) -> nn.Module:
    """One hidden layer of as many units as `perceptron-hidden` says."""
    _, height, width = builder.spec.input_shape
    hidden = builder.axis("hidden", int(builder.option("hidden")))
    first = builder.linear(Along(IMAGE, inner=height * width), hidden)
    return nn.Sequential(nn.Flatten(), first, builder.norm(hidden), nn.ReLU(), builder.classifier(hidden))


perceptron.OPTIONS = {"hidden": Setting(32, "units of the hidden layer", between(2, 4096))}
