"""What a network is made from, and the builder that makes layers and declares their axes in one step.

A `NetworkSpec` is a few scalars that cross the wire. The same spec builds the full network, any submodel of it (given
the kept units per axis) and the declaration of its tensors.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor, nn

from models.algebra.axes import Along, Axis, Kind, Layout, declare, layout_of
from models.algebra.plans import FULL, Plan
from models.algebra.plans import submodel as cut
from models.algebra.submodel import Submodel
from models.errors import SettingError
from models.networks.staged import EXITS
from models.norms import layers as norm
from models.norms.dual_norm import Dual
from models.variants.base_nets import Mixture, chosen, copied, side_by_side
from models.variants.per_size_parameters import PRIVATE, copies, redirected, with_private

IMAGE, CLASSES = "image", "classes"
SMALL = 16  # pixels a side
PADDING = 0  # the token that fills a short text up, at its end
_EMBEDDING_DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that a network's shape depends on.

    Attributes:
        name: a registered network, see `NETWORKS`.
        input_shape: of one input: (channels, height, width) of an image, (channels, time) of a signal, (length,) of
            a text.
        classes: number of labels.
        widths: units per layer or stage at full width; () takes the network's default, half of it for inputs below 16
            pixels, which have a quarter of the positions to fill.
        blocks: residual blocks per stage; () takes the network's default. Networks without blocks ignore it.
        norm: one of `models.norms.layers.NORMS` that the network can use; "" takes its usual one.
        scaler: whether HeteroFL's Scaler stands before every normalisation.
        rates: the widths that keep statistics of their own, ascending (norm "batch-per-width" only); () where every
            submodel has norms of its own.
        vocabulary: number of different tokens of a text; 0 where inputs are no text.
        exits: one of `models.networks.staged.EXITS`.
        step_sizes: whether the branch of a residual block is multiplied by a learnt step size (NeFL).
        heads: attention heads of a transformer.
        whole_heads: whether its width axis counts heads; else every head stays and gets narrower.
        tied: whether a transformer's classifier has the token embedding as its weight (the answer is the next token).
        pooler: whether a transformer has a tanh layer before its classifier.
        private: what every submodel of `variants` has a copy of its own of, among
            `models.variants.per_size_parameters.PRIVATE`.
        variants: plans of the submodels that have such copies, as JSON.
        bases: number of independent nets that stand side by side (Split-Mix); 0 is one ordinary network.
        dual: whether every norm exists twice, for clean and for adversarial inputs (see `models.norms.dual_norm`).
    """

    name: str
    input_shape: tuple[int, ...]
    classes: int
    _: KW_ONLY
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    norm: str = ""
    scaler: bool = False
    rates: tuple[Fraction, ...] = (FULL,)
    vocabulary: int = 0
    exits: str = "auto"
    step_sizes: bool = False
    heads: int = 4
    whole_heads: bool = False
    tied: bool = False
    pooler: bool = False
    private: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    bases: int = 0
    dual: bool = False

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
            shape = tuple(map(int, fields.pop("input_shape")))
            widths, blocks = tuple(map(int, fields.pop("widths"))), tuple(map(int, fields.pop("blocks")))
            rates = tuple(Fraction(rate) for rate in fields.pop("rates"))
            private, variants = tuple(map(str, fields.pop("private"))), tuple(map(str, fields.pop("variants")))
            return NetworkSpec(
                input_shape=shape,
                widths=widths,
                blocks=blocks,
                rates=rates,
                private=private,
                variants=variants,
                **fields,
            )
        except (TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"not a network: {text[:80]!r} ({error!r})") from None


class _Conv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Leave the weights: a default draw would take numbers from the global generator, only to be overwritten."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave the weights, as `_Conv2d` does."""


class _Embedding(nn.Embedding):
    deviation: float

    def reset_parameters(self) -> None:
        """Leave the weights, as `_Conv2d` does."""


class Builder:
    """Makes layers of the size that one build keeps, and declares what each dimension runs along.

    Args:
        spec: the network's scalars.
        axes: its axes at full width.
        sizes: kept units per width axis; axes that are absent are full.
        plan: of this build: its rate is what the scaler and per-width statistics need, its depth, exits and blocks
            say which stages are made.
    """

    def __init__(self, spec: NetworkSpec, axes: Mapping[str, Axis], sizes: Mapping[str, int], plan: Plan) -> None:
        self.spec, self.axes, self.rate = spec, axes, plan.rate
        self.depth, self.own_exit = plan.depth, plan.own_exit
        self._sizes, self._dropped = sizes, frozenset(plan.dropped)

    def holds(self, block: int) -> bool:
        """Whether this build has a residual block."""
        return block not in self._dropped

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

    def depthwise(self, axis: str, kernel: int, *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
        """2-d convolution of every channel by itself."""
        size = self.size(axis)
        layer = _Conv2d(size, size, kernel, stride, padding, groups=size, bias=False)
        return declare(layer, {"weight": (axis, None, None, None)})

    def classifier(self, inputs: str) -> nn.Linear:
        """Linear layer to the classes."""
        return self.linear(inputs, CLASSES)

    def linear(self, inputs: str | Along, outputs: str | Along) -> nn.Linear:
        """Linear layer from one axis to another."""
        layer = _Linear(self.size(inputs), self.size(outputs))
        return declare(layer, {"weight": (outputs, inputs), "bias": (outputs,)})

    def embedding(self, rows: str, features: str, *, deviation: float = _EMBEDDING_DEVIATION) -> nn.Embedding:
        """One learnt vector along `features` for every unit of `rows`, at first from N(0, deviation²)."""
        layer = _Embedding(self.size(rows), self.size(features))
        layer.deviation = deviation
        return declare(layer, {"weight": (rows, features)})

    def step(self) -> nn.Module:
        """What the branch of a residual block goes through: a learnt step size, or nothing."""
        if not self.spec.step_sizes:
            return nn.Identity()
        return declare(norm.StepSize(), {"size": (None,)}, role="step")

    def norm(self, axis: str) -> nn.Module:
        """Normalisation over an axis, with the Scaler before it where the spec asks for it."""
        size = self.axes[axis].size

        def make() -> nn.Module:
            return norm.norm_layer(self.spec.norm, axis, size, self.size(axis), self.rate, self.spec.rates)

        layer = Dual(make(), make()) if self.spec.dual else make()
        scale = norm.Scaler(self.rate) if self.spec.scaler else nn.Identity()
        both = nn.Sequential(OrderedDict(scale=scale, norm=layer))  # one set of names, scaled or not
        return declare(both, role="norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A registered network.

    Attributes:
        axes: spec → its axes at full width.
        build: builder → the module.
        widths: default units per layer or stage.
        blocks: default blocks per stage; () for networks without blocks.
        dimensions: of one input: 3 for images, 2 for signals, 1 for texts; a network may take several.
        smallest: smallest side of an input that it can take (height and width, or time).
        fixed_widths: whether there are as many widths, and as many entries of blocks, as by default, always.
        spatial: whether features are images after every stage, so that bottlenecks can follow them.
        norms: which of `models.norms.layers.NORMS` it can use; the first is its usual one.
    """

    axes: Callable[[NetworkSpec], dict[str, Axis]]
    build: Callable[[Builder], nn.Module]
    widths: tuple[int, ...]
    blocks: tuple[int, ...] = ()
    dimensions: tuple[int, ...] = (3,)
    smallest: int = 1
    fixed_widths: bool = False
    norms: tuple[str, ...] = norm.CHANNEL_NORMS
    spatial: bool = False


NETWORKS: dict[str, Network] = {}


def with_exits(spec: NetworkSpec, wanted: str) -> NetworkSpec:
    """Give a network exits after every stage, plain ones where bottlenecks cannot be."""
    spatial = spec.name in NETWORKS and NETWORKS[spec.name].spatial
    return replace(spec, exits=wanted if spatial or wanted != "bottleneck" else "plain")


def ends(spec: NetworkSpec) -> dict[str, Axis]:
    """Make the two axes that every network has and nobody cuts: image channels and classes."""
    return {
        IMAGE: Axis(IMAGE, spec.input_shape[0], Kind.FIXED),
        CLASSES: Axis(CLASSES, spec.classes, Kind.CLASS),
    }


@lru_cache(maxsize=64)
def completed(spec: NetworkSpec) -> NetworkSpec:
    """Fill in a network's default widths, blocks and norm, and check the spec.

    Raises:
        SettingError: unknown network or norm, widths or blocks of the wrong length, too small an input.
    """
    if spec.name not in NETWORKS:
        raise SettingError("model", spec.name, NETWORKS)
    network = NETWORKS[spec.name]
    usual_norm = spec.norm or network.norms[0]
    if usual_norm not in network.norms:
        raise SettingError("norm", spec.norm, (*network.norms[:-1], f"{network.norms[-1]} for {spec.name!r}"))
    sides = spec.input_shape[1:]
    dimensions = len(spec.input_shape)
    if dimensions not in network.dimensions or bool(spec.vocabulary) != (dimensions == 1):
        kinds = {1: "texts", 2: "signals", 3: "images"}
        taken = " and ".join(kinds[d] for d in network.dimensions)
        allowed = f"a network for {kinds.get(dimensions, spec.input_shape)}; {spec.name!r} takes {taken}"
        raise SettingError("model", spec.name, allowed)
    if spec.exits not in EXITS:
        raise SettingError("exits", spec.exits, EXITS)
    if unknown := set(spec.private) - set(PRIVATE):
        raise ValueError(f"private = {sorted(unknown)}: allowed is {PRIVATE}")
    small = dimensions == 3 and min(sides) < SMALL
    usual = tuple(width // 2 for width in network.widths) if small else network.widths
    widths, blocks = spec.widths or usual, spec.blocks or network.blocks
    if min(widths) < 1 or (network.fixed_widths and len(widths) != len(network.widths)):
        raise SettingError("widths", spec.widths, f"{len(network.widths)} positive whole numbers for {spec.name!r}")
    stages = len(network.blocks) if network.fixed_widths else len(widths)
    if spec.blocks and (not network.blocks or len(blocks) != stages or min(blocks) < 1):
        allowed = f"{stages} positive whole numbers, and only for a residual network"
        raise SettingError("blocks", spec.blocks, allowed)
    if blocks and len(blocks) != stages:
        raise SettingError("widths", spec.widths, f"as many as there are stages ({len(blocks)})")
    if sides and min(sides) < network.smallest:
        allowed = f"a network for {sides} inputs; {spec.name!r} needs {network.smallest}"
        raise SettingError("model", spec.name, allowed)
    full = replace(spec, widths=widths, blocks=blocks, norm=usual_norm)
    try:
        with torch.device("meta"):  # shapes only
            build(full).train()(examples(full, 2))
    except RuntimeError as error:
        allowed = f"a network whose layers fit inputs of {spec.input_shape} ({error})"
        raise SettingError("widths", spec.widths, allowed) from None
    return full


def examples(spec: NetworkSpec, count: int) -> Tensor:
    """Make inputs of the right shape and type, all zero, on the default device."""
    return torch.zeros(count, *spec.input_shape, dtype=torch.int64 if spec.vocabulary else torch.float32)


WHOLE = Plan()


def build(spec: NetworkSpec, sizes: Mapping[str, int] | None = None, plan: Plan = WHOLE) -> nn.Module:
    """Build a network, full or at the sizes of a submodel.

    Its convolutions and linear layers hold no values yet, only memory: load a state before you use them.

    Args:
        spec: a completed spec.
        sizes: kept units per width axis.
        plan: what those sizes stand for.
    """
    network = NETWORKS[spec.name]
    if spec.bases:
        alone = replace(spec, bases=0)
        count = spec.bases if plan.bases is None else len(plan.bases)
        return Mixture([build(alone, sizes, plan) for _ in range(count)])
    return network.build(Builder(spec, network.axes(spec), sizes or {}, plan))


@lru_cache(maxsize=64)
def layout(spec: NetworkSpec) -> Layout:
    """Collect the declaration of a completed spec's whole state."""
    if spec.bases:
        return side_by_side(layout(replace(spec, bases=0)), spec.bases)
    with torch.device("meta"):
        network = layout_of(build(spec), NETWORKS[spec.name].axes(spec))
    return with_private(network, spec.private, _variants(spec))


@lru_cache(maxsize=64)
def _variants(spec: NetworkSpec) -> tuple[Plan, ...]:
    return tuple(map(Plan.from_json, spec.variants))


@lru_cache(maxsize=128)
def submodel(spec: NetworkSpec, plan: Plan) -> Submodel:
    """Cut a completed spec's network by a plan (cached; see `models.algebra.plans.submodel`)."""
    if spec.bases:
        bases = tuple(range(spec.bases)) if plan.bases is None else plan.bases
        if max(bases) >= spec.bases or min(bases) < 0:
            raise ValueError(f"bases = {bases}: allowed is 0 to {spec.bases - 1}")
        return chosen(submodel(replace(spec, bases=0), replace(plan, bases=None)), bases)
    if not spec.private:
        return cut(layout(spec), plan)
    alone = layout(_without_copies(spec))
    return redirected(cut(alone, plan), alone, spec.private, _variants(spec), plan)


def _without_copies(spec: NetworkSpec) -> NetworkSpec:
    return replace(spec, private=(), variants=())


def build_part(spec: NetworkSpec, plan: Plan) -> nn.Module:
    """Build the network that a device with this plan holds. Its state has the submodel's names and shapes."""
    return build(spec, submodel(spec, plan).sizes, plan)


def initial_state(spec: NetworkSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the initial global state: Kaiming-uniform weights as PyTorch's layers have, from our own generator.

    Tensors of two or more dimensions are drawn from U(-b, b), b = 1/sqrt(fan_in); biases of those layers likewise
    (fan_in of their weight); embeddings from N(0, 0.02²) unless the network says otherwise; norms start at weight 1,
    bias 0, statistics at mean 0 and variance 1.
    """
    if spec.bases:
        return copied([initial_state(replace(spec, bases=0), generator) for _ in range(spec.bases)])
    network = build(spec)
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = 1 / sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                with torch.no_grad():
                    parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, _Embedding):
            with torch.no_grad():
                module.weight.normal_(std=module.deviation, generator=generator)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return copies(state, layout(_without_copies(spec)), spec.private, _variants(spec))
