"""What a network is made from, and the builder that makes layers and declares their axes in one step.

A `NetworkSpec` is a few scalars that cross the wire. The same spec builds the full network, any submodel of it (given
the kept units per axis) and the declaration of its tensors.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor, nn

from models import norm
from models.axes import Along, Axis, Kind, Layout, declare, layout_of
from models.errors import SettingError
from models.plans import FULL, Plan
from models.plans import submodel as cut
from models.submodel import Submodel

IMAGE, CLASSES = "image", "classes"
SMALL = 16  # pixels a side


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that a network's shape depends on.

    Attributes:
        name: a registered network, see `NETWORKS`.
        input_shape: (channels, height, width) of one input.
        classes: number of labels.
        widths: units per layer or stage at full width; () takes the network's default, half of it for inputs below 16
            pixels, which have a quarter of the positions to fill.
        blocks: residual blocks per stage; () takes the network's default. Networks without blocks ignore it.
        norm: one of `models.norm.NORMS`.
        scaler: whether HeteroFL's Scaler stands before every normalisation.
        rates: the widths that keep statistics of their own, ascending (norm "batch-per-width" only).
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    norm: str = "static-batch"
    scaler: bool = False
    rates: tuple[Fraction, ...] = (FULL,)

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps({**asdict(self), "rates": [str(rate) for rate in self.rates]})

    @staticmethod
    def from_json(text: str) -> NetworkSpec:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not a network.
        """
        fields = json.loads(text)
        try:
            channels, height, width = map(int, fields.pop("input_shape"))
            shape = (channels, height, width)
            widths, blocks = tuple(map(int, fields.pop("widths"))), tuple(map(int, fields.pop("blocks")))
            rates = tuple(Fraction(rate) for rate in fields.pop("rates"))
            return NetworkSpec(input_shape=shape, widths=widths, blocks=blocks, rates=rates, **fields)
        except (TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"not a network: {text[:80]!r} ({error!r})") from None


class _Conv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Leave the weights: a default draw would take numbers from the global generator, only to be overwritten."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave the weights, as `_Conv2d` does."""


class Builder:
    """Makes layers of the size that one build keeps, and declares what each dimension runs along.

    Args:
        spec: the network's scalars.
        axes: its axes at full width.
        sizes: kept units per width axis; axes that are absent are full.
        rate: the width of this build, which the scaler and per-width statistics need.
    """

    def __init__(self, spec: NetworkSpec, axes: Mapping[str, Axis], sizes: Mapping[str, int], rate: Fraction) -> None:
        self.spec, self.axes, self.rate = spec, axes, rate
        self._sizes = sizes

    def size(self, axis: str | Along) -> int:
        """Coordinates of a dimension in this build."""
        if isinstance(axis, Along):
            return axis.outer * self.size(axis.axis) * axis.inner
        return self._sizes.get(axis, self.axes[axis].size)

    def conv(
        self, inputs: str, outputs: str, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool
    ) -> nn.Conv2d:
        """2-d convolution from one axis to another."""
        layer = _Conv2d(self.size(inputs), self.size(outputs), kernel, stride, padding, bias=bias)
        return declare(layer, {"weight": (outputs, inputs, None, None), "bias": (outputs,)})

    def linear(self, inputs: str | Along, outputs: str) -> nn.Linear:
        """Linear layer from one axis to another."""
        layer = _Linear(self.size(inputs), self.size(outputs))
        return declare(layer, {"weight": (outputs, inputs), "bias": (outputs,)})

    def norm(self, axis: str) -> nn.Module:
        """Normalisation over an axis, with the Scaler before it where the spec asks for it."""
        size = self.axes[axis].size
        layer = norm.norm_layer(self.spec.norm, axis, size, self.size(axis), self.rate, self.spec.rates)
        scale = norm.Scaler(self.rate) if self.spec.scaler else nn.Identity()
        return nn.Sequential(OrderedDict(scale=scale, norm=layer))  # one set of names, scaled or not


@dataclass(frozen=True, slots=True)
class Network:
    """A registered network.

    Attributes:
        axes: spec → its axes at full width.
        build: builder → the module.
        widths: default units per layer or stage.
        blocks: default blocks per stage; () for networks without blocks.
        smallest: smallest input height and width it can take.
        fixed_widths: whether there are as many widths as by default, always.
    """

    axes: Callable[[NetworkSpec], dict[str, Axis]]
    build: Callable[[Builder], nn.Module]
    widths: tuple[int, ...]
    blocks: tuple[int, ...] = ()
    smallest: int = 1
    fixed_widths: bool = False


NETWORKS: dict[str, Network] = {}


def ends(spec: NetworkSpec) -> dict[str, Axis]:
    """Make the two axes that every network has and nobody cuts: image channels and classes."""
    return {
        IMAGE: Axis(IMAGE, spec.input_shape[0], Kind.FIXED),
        CLASSES: Axis(CLASSES, spec.classes, Kind.CLASS),
    }


def completed(spec: NetworkSpec) -> NetworkSpec:
    """Fill in a network's default widths and blocks, and check the spec.

    Raises:
        SettingError: unknown network or norm, widths or blocks of the wrong length, too small an input.
    """
    if spec.name not in NETWORKS:
        raise SettingError("model", spec.name, NETWORKS)
    if spec.norm not in norm.NORMS:
        raise SettingError("norm", spec.norm, norm.NORMS)
    network = NETWORKS[spec.name]
    usual = tuple(width // 2 for width in network.widths) if min(spec.input_shape[1:]) < SMALL else network.widths
    widths, blocks = spec.widths or usual, spec.blocks or network.blocks
    if min(widths) < 1 or (network.fixed_widths and len(widths) != len(network.widths)):
        raise SettingError("widths", spec.widths, f"{len(network.widths)} positive whole numbers for {spec.name!r}")
    if spec.blocks and (not network.blocks or len(blocks) != len(widths) or min(blocks) < 1):
        allowed = f"{len(widths)} positive whole numbers, and only for a residual network"
        raise SettingError("blocks", spec.blocks, allowed)
    if blocks and len(blocks) != len(widths):
        raise SettingError("widths", spec.widths, f"as many as there are stages ({len(blocks)})")
    if min(spec.input_shape[1:]) < network.smallest:
        allowed = f"a network for {spec.input_shape[1:]} inputs; {spec.name!r} needs {network.smallest}"
        raise SettingError("model", spec.name, allowed)
    full = replace(spec, widths=widths, blocks=blocks)
    try:
        with torch.device("meta"):  # shapes only
            build(full).train()(torch.empty(2, *spec.input_shape))
    except RuntimeError as error:
        allowed = f"a network whose layers fit inputs of {spec.input_shape} ({error})"
        raise SettingError("widths", spec.widths, allowed) from None
    return full


def build(spec: NetworkSpec, sizes: Mapping[str, int] | None = None, rate: Fraction = FULL) -> nn.Module:
    """Build a network, full or at the sizes of a submodel.

    Its convolutions and linear layers hold no values yet, only memory: load a state before you use them.

    Args:
        spec: a completed spec.
        sizes: kept units per width axis.
        rate: the width those sizes stand for.
    """
    network = NETWORKS[spec.name]
    return network.build(Builder(spec, network.axes(spec), sizes or {}, rate))


@lru_cache(maxsize=64)
def layout(spec: NetworkSpec) -> Layout:
    """Collect the declaration of a completed spec's full network."""
    with torch.device("meta"):
        return layout_of(build(spec), NETWORKS[spec.name].axes(spec))


@lru_cache(maxsize=128)
def submodel(spec: NetworkSpec, plan: Plan) -> Submodel:
    """Cut a completed spec's network by a plan (cached; see `models.plans.submodel`)."""
    return cut(layout(spec), plan)


def build_part(spec: NetworkSpec, plan: Plan) -> nn.Module:
    """Build the network that a device with this plan holds. Its state has the submodel's names and shapes."""
    return build(spec, submodel(spec, plan).sizes, plan.rate)


def initial_state(spec: NetworkSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the initial global state: Kaiming-uniform weights as PyTorch's layers have, from our own generator.

    Tensors of two or more dimensions are drawn from U(-b, b), b = 1/sqrt(fan_in); biases of those layers likewise
    (fan_in of their weight); norms start at weight 1, bias 0, statistics at mean 0 and variance 1.
    """
    network = build(spec)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                with torch.no_grad():
                    parameter.uniform_(-bound, bound, generator=generator)
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
