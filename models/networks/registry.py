"""The networks that the `model` setting can name: each file of a network adds its own, others are found elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from models.algebra.axes import Axis
from models.algebra.plans import Plan
from models.networks.builder import Builder, ends
from models.networks.foreign import TOLD, called, is_factory, of_factory, takes_builder, untold
from models.networks.network import ROWS, Network
from models.networks.spec import SPATIAL, NetworkSpec
from models.registry import Registry, Unfit


def of_function(make: Callable[[Builder], nn.Module]) -> Network:
    """A network that is a plain function of a builder and declares its axes where it uses them (`Builder.axis`)."""

    def axes(spec: NetworkSpec) -> dict[str, Axis]:
        builder = Builder(spec, ends(spec), {}, Plan())
        with torch.device("meta"):
            build(builder)
        return builder.axes

    def build(builder: Builder) -> nn.Module:
        return called(make, builder.spec, builder)

    return Network(axes=axes, build=build, dimensions=(ROWS, 1, 2, 3), OPTIONS=getattr(make, "OPTIONS", {}))


_EXPECTED = (
    "a models.Network, a function that takes a models.Builder and gives a module, or one that gives an ordinary module "
    f"and takes nothing, or some of {', '.join(TOLD)} and of its OPTIONS, whose hyphens are underscores there"
)


def _network(found: object) -> Network | None:
    if isinstance(found, Network):
        return found
    if isinstance(found, nn.Module):  # which can be called, but with inputs
        what = "such as a class or a function"
        raise Unfit(f"what makes a module, {what}; this is one of {type(found).__name__} that is made already")
    if not callable(found):
        return None
    if takes_builder(found):
        return of_function(cast(Callable[[Builder], nn.Module], found))
    if is_factory(found):
        return of_factory(cast(Callable[..., nn.Module], found))
    if lost := untold(found):
        raise Unfit(f"{_EXPECTED}; of this one's parameters there are also {', '.join(lost)}, without a default")
    return None


# Usual networks for small devices, as torchvision, timm and transformers have them.
LIBRARIES = {
    "mobilenet-v3-small": "models.networks.named:mobilenet_v3_small",
    "efficientnet-b0": "models.networks.named:efficientnet_b0",
    "convnext-tiny": "models.networks.named:convnext_tiny",
    "resnet-18": "models.networks.named:resnet_18",
    "resnet-50": "models.networks.named:resnet_50",
    "mobilenet-v4-small": "models.networks.named:mobilenet_v4_small",
    "vit-tiny": "models.networks.named:vit_tiny",
    "bert-tiny": "models.networks.named:bert_tiny",
    "causal-lm": "models.networks.causal:CAUSAL_LM",
}

NETWORKS: Registry[Network] = Registry(
    "model",
    group="flotilla.networks",
    expected=_EXPECTED,
    check=_network,
    libraries=LIBRARIES,
)


def with_exits(spec: NetworkSpec, wanted: str) -> NetworkSpec:
    """Give a network exits after every stage, plain ones where those that are wanted need images and there are none."""
    spatial = spec.name in NETWORKS and NETWORKS[spec.name].spatial
    return replace(spec, exits=wanted if spatial or wanted not in SPATIAL else "plain")
