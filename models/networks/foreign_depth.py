"""Depth of a network whose stages were found: which of them a build has, and the exits after them."""

from __future__ import annotations

from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn

from models.algebra.declarations import declare
from models.algebra.rates import Rate
from models.errors import SettingError
from models.foreign.axes import CLASSES, Found
from models.foreign.shorten import EXITS, Length
from models.foreign.sizes import Sizes
from models.networks.builder import Builder, Linear
from models.norms.layers import StepSize, norm_layer


class PooledExit(nn.Module):
    """Features (N, ..., C, ...) → logits (N, classes): their mean over all positions, and a linear layer.

    Args:
        place: of the features' dimension.
        norm: of the features, before they are pooled, where the network's own next layer has one; or None.
        classifier: (N, C) → logits.
    """

    def __init__(self, place: int, norm: nn.Module | None, classifier: nn.Module) -> None:
        super().__init__()
        self.place, self.norm, self.classifier = place, norm, classifier

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        if self.norm is not None:
            features = self.norm(features.movedim(self.place, -1)).movedim(-1, self.place)
        positions = [place for place in range(1, features.ndim) if place != self.place]
        return self.classifier(features.mean(positions) if positions else features)  # type: ignore[no-any-return]


def length_in(builder: Builder, found: Found) -> Length:
    """Which stages, exits and blocks a build has.

    Raises:
        SettingError: the spec's exits cannot be.
    """
    spec, last = builder.spec, found.stages.count
    if spec.exits in ("plain", "shared") and not last:
        allowed = (
            "a network with two residual blocks or more, or with `blocks` that names modules after which it can end"
        )
        raise SettingError("model", spec.name, allowed)
    if spec.exits == "shared" and not found.stages.alike:
        raise SettingError("exits", spec.exits, f"one of last, plain for {spec.name!r}")
    depth = builder.depth or last
    exits: tuple[int, ...] = (last,) if depth == last else ()
    if spec.exits == "plain":
        exits = (depth,) if builder.own_exit else tuple(range(1, depth + 1))
    return Length(
        depth=depth,
        exits=exits,
        shared=spec.exits == "shared",
        dropped=builder.dropped,
        steps=spec.step_sizes,
    )


def exit_of(builder: Builder, found: Found, stage: int) -> nn.Module:
    """The exit after a stage that the module has not itself, its layers zero and declared."""
    stages, place = found.stages, found.stages.features[stage - 1]
    extent = stages.dims[stage - 1][place]
    dim, channels = found.along(extent), Sizes(found, {name: builder.size(name) for name in found.axes}).of(extent)
    classifier = Linear(channels, builder.spec.classes)
    classes = CLASSES if CLASSES in found.axes else None
    declare(classifier, {"weight": (classes, dim), "bias": (classes,)})
    norm = None
    if stages.normed[stage - 1]:
        layer = partial(norm_layer, "layer", dim, _same, builder.rate)
        norm = declare(layer(channels=channels, rates=()), role="norm")
    return PooledExit(place, norm, classifier)


def _same(rate: Rate) -> int:
    raise ValueError(f"a layer norm has no statistics of rate {rate}")


def step() -> nn.Module:
    """A step size."""
    return declare(StepSize(), {"size": (None,)}, role="step")


def draw_exits(network: nn.Module, generator: torch.Generator) -> None:
    """Give exits their first weights, as PyTorch's linear layers have them."""
    exits = network._modules.get(EXITS)
    for module in exits.modules() if exits is not None else ():
        if isinstance(module, Linear):
            bound = 1 / sqrt(module.in_features)
            for parameter in module.parameters():
                parameter.data.uniform_(-bound, bound, generator=generator)
