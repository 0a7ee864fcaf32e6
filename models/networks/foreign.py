"""Networks that are ordinary modules: a factory's module is traced, its axes are found and proved, its parts rewritten.

Every process that builds such a network traces it, once. What it finds has a fingerprint, which goes with the spec: a
device whose versions of PyTorch or of a library give another network says so before it trains.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from models.algebra.axes import Along, Axis, Dim, length_of, stretches_of
from models.algebra.declarations import declare
from models.algebra.plans import Plan, kept_units
from models.algebra.rates import Rate, rate_of
from models.errors import SettingError
from models.foreign import kept
from models.foreign.atoms import size_of
from models.foreign.axes import Found, find_axes
from models.foreign.batch_norms import BatchNorm
from models.foreign.check import TOLERANCE, Proof, prove
from models.foreign.part import build_part
from models.foreign.refused import Untraceable
from models.foreign.stages import NoStage
from models.foreign.trace import exported, follow, state_of
from models.networks.builder import Builder
from models.networks.foreign_depth import draw_exits, exit_of, length_in, step
from models.networks.network import ROWS, Network
from models.networks.spec import NetworkSpec
from models.norms import layers as norm
from models.norms.dual_norm import DualNorm
from models.randomness import seeded_for_others, torch_generator

Factory = Callable[..., nn.Module]

WIDTHS = ("width", "width_mult")  # what a parameter is called that says how wide layers are, or how many times as wide
TOLD = ("classes", "num_classes", "input_shape", "vocabulary")  # what a factory is told, by its parameters' names
_PROOF = 4  # examples
_NORMS = ("static-batch", "batch-per-width", "group")  # what may stand in place of a batch norm


def takes_builder(make: Callable[..., object]) -> bool:
    """Whether this is a function of a `Builder`: of one argument that is none of `TOLD` and no option of its own."""
    parameters = _parameters(make)
    required = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if parameters and parameters[0].name == "builder":
        return len(required) <= 1
    told = {*TOLD, *_own(make)}
    return len(required) == 1 and required[0].kind is not required[0].KEYWORD_ONLY and required[0].name not in told


def is_factory(make: Callable[..., object]) -> bool:
    """Whether this can be called with some of `TOLD` and its own options, by name, or with nothing."""
    try:
        inspect.signature(make)
    except (TypeError, ValueError):
        return False
    return not untold(make)


def untold(make: Callable[..., object]) -> list[str]:
    """Parameters that have to be told something and are neither of `TOLD` nor options of its own."""
    told = {*TOLD, *_own(make)}
    return [
        one.name
        for one in _parameters(make)
        if one.name not in told and one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]


def of_factory(make: Factory) -> Network:
    """A network whose module a factory makes, such as torchvision's."""

    @lru_cache(maxsize=8)
    def found(spec: NetworkSpec) -> Found:
        axes = _found(make, replace(spec, fingerprint=""))
        if spec.fingerprint and axes.fingerprint != spec.fingerprint:
            allowed = "a network that has the same layers here and at the server; other versions give others"
            raise SettingError("model", spec.name, allowed)
        return axes

    def of(spec: NetworkSpec) -> Found:
        return found(_seen(spec))

    def build(builder: Builder) -> nn.Module:
        axes = of(builder.spec)
        return build_part(
            axes,
            {**builder.sizes, **{name: builder.size(name) for name in axes.axes}},
            lambda one: _norm(one, builder, axes.axes),
            length=length_in(builder, axes),
            make_exit=lambda stage: exit_of(builder, axes, stage),
            make_step=step,
            adapter=builder.spec.adapter,
        )

    def initial(spec: NetworkSpec, generator: torch.Generator) -> dict[str, Tensor]:
        seed = int(torch.randint(2**31, (), generator=generator))
        drawn = state_of(_instance(make, spec, seed))
        network = build(Builder(spec, of(spec).axes, {}, Plan()))
        draw_exits(network, generator)
        state = network.state_dict()
        return {name: (drawn[name] if name in drawn else state[name]).detach().clone() for name in state}

    @lru_cache(maxsize=8)
    def proved(spec: NetworkSpec) -> tuple[Found, Proof]:
        axes = found(spec)
        draws = torch_generator(0, 0, "server", "proof")
        try:
            proof = prove(_instance(make, spec, 0), axes, _examples(spec, draws), draws)
        except RuntimeError as error:  # sizes that do not fit
            said = str(error).partition("\n")[0]
            raise SettingError("model", spec.name, f"one whose parts run; half of it does not: {said}") from error
        if proof.wrong:
            worst, moved = max(proof.wrong.items(), key=lambda one: one[1])
            allowed = f"one whose units are alike: other places for those of {worst!r} change it by {moved:.1g}"
            raise SettingError("model", spec.name, allowed)
        if not proof.differs < TOLERANCE:
            allowed = f"one whose parts are parts: half of it differs from the whole with zeros by {proof.differs:.1g}"
            raise SettingError("model", spec.name, allowed)
        return axes, proof

    def proof_of(spec: NetworkSpec) -> tuple[Found, Proof]:
        axes, proof = proved(replace(_seen(spec), fingerprint=""))
        in_depth = spec.exits in ("plain", "shared") or spec.step_sizes or spec.private
        if in_depth and not proof.shortened < TOLERANCE:
            allowed = f"one whose blocks are sums; without them it differs by {proof.shortened:.1g}"
            raise SettingError("model", spec.name, allowed)
        return axes, proof

    return Network(
        axes=lambda spec: dict(of(spec).axes),
        build=build,
        dimensions=(ROWS, 1, 2, 3),
        norms=_NORMS,
        initial=initial,
        prove=proof_of,
        narrower=lambda spec, count: _narrower(make, spec, count),
        OPTIONS=getattr(make, "OPTIONS", {}),
    )


def _narrower(make: Factory, spec: NetworkSpec, count: int) -> NetworkSpec | None:
    """A factory's network with layers one `count`-th as wide, by the first of `WIDTHS` that it has and can divide."""
    told, own = dict(spec.options), _own(make)
    for one in _parameters(make):
        name = own.get(one.name, one.name)
        full = told.get(name, one.default)
        if one.name not in WIDTHS or isinstance(full, bool) or not isinstance(full, int | float):
            continue
        if isinstance(full, float):
            return replace(spec, options=tuple({**told, name: full / count}.items()))
        if full % count == 0:
            return replace(spec, options=tuple({**told, name: full // count}.items()))
    return None


def _seen(spec: NetworkSpec) -> NetworkSpec:
    """What a trace depends on."""
    return NetworkSpec(
        spec.name,
        spec.input_shape,
        spec.classes,
        vocabulary=spec.vocabulary,
        options=spec.options,
        fingerprint=spec.fingerprint,
        ends=spec.ends,
    )


def _parameters(make: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        return []


def _own(make: Callable[..., object]) -> dict[str, str]:
    """Its own options, by the parameters that are told them: a hyphen of an option's name is an underscore there."""
    options = getattr(make, "OPTIONS", {})
    if not isinstance(options, Mapping):
        return {}  # the registry says what is wrong
    return {str(name).replace("-", "_"): str(name) for name in options}


def _instance(make: Factory, spec: NetworkSpec, seed: int) -> nn.Module:
    """Call a factory. What it draws comes from PyTorch's own generator, seeded for it alone.

    Raises:
        SettingError: it raises, or gives no module.
    """
    told = {
        "classes": spec.classes,
        "num_classes": spec.classes,
        "input_shape": spec.input_shape,
        "vocabulary": spec.vocabulary,
        **{name.replace("-", "_"): value for name, value in spec.options},
    }
    names = [one.name for one in _parameters(make)]
    if any(one.kind is one.VAR_KEYWORD for one in _parameters(make)):
        names += _own(make)
        if "classes" not in names:
            names.append("num_classes")  # as torchvision's and timm's functions pass it on
    with seeded_for_others(seed), torch.device("cpu"):
        return called(make, spec, **{name: told[name] for name in names if name in told})


def called(make: Callable[..., object], spec: NetworkSpec, *given: object, **told: object) -> nn.Module:
    """Call what makes a module.

    Raises:
        SettingError: it raises, or gives no module.
    """
    try:
        module = make(*given, **told)
    except SettingError:
        raise
    except Exception as error:  # whatever the user's code raises
        how = " of a models.Builder, which it is taken to want" if given else ""
        allowed = f"one that can be made{how}; {type(error).__name__}: {error}"[:300]
        raise SettingError("model", spec.name, allowed) from error
    if not isinstance(module, nn.Module):
        raise SettingError("model", spec.name, f"one that gives a torch.nn.Module, not a {type(module).__name__}")
    return module


def _found(make: Factory, spec: NetworkSpec) -> Found:
    source, called = kept.made_by(make)
    name = kept.key(source, called, spec.to_json())
    try:
        with torch.device("cpu"):
            found = kept.read(name) if source else None
            if found is None:
                module, example = _instance(make, spec, 0), _examples(spec, torch_generator(0, 0, "server", "proof"))
                found = module, {training: exported(module, example, training=training) for training in (True, False)}
                kept.write(name, source, *found)
            traced = follow(*found)
    except Untraceable as error:
        raise SettingError("model", spec.name, f"a network that can be traced; {error}") from error
    shape = [size_of(dim) for dim in traced.output[1:]]
    if shape != [spec.classes]:
        allowed = f"one that gives logits (N, {spec.classes}); this gives (N, {', '.join(map(str, shape))})"
        raise SettingError("model", spec.name, allowed)
    try:
        return find_axes(traced, spec.ends)
    except NoStage as error:
        raise SettingError("blocks", ", ".join(spec.ends), str(error)) from None


def _examples(spec: NetworkSpec, generator: torch.Generator) -> Tensor:
    shape = (_PROOF, *spec.input_shape)
    if spec.vocabulary:
        return torch.randint(1, spec.vocabulary, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def _norm(one: BatchNorm, builder: Builder, axes: Mapping[str, Axis]) -> tuple[nn.Module | None, nn.Module]:
    """What stands in place of a batch norm of the original: the norm of the spec, with the Scaler before it."""
    spec = builder.spec

    def make() -> nn.Module:
        return norm.norm_layer(
            spec.norm,
            one.dim,
            lambda rate: channels_at(one.dim, one.size, axes, rate),
            builder.rate,
            channels=one.channels,
            rates=spec.rates,
            momentum=one.momentum,
            epsilon=one.epsilon,
        )

    layer = DualNorm(make(), make()) if spec.dual else make()
    share = rate_of(builder.rate, _group_of(one.dim, axes))
    return norm.Scaler(share) if spec.scaler else None, declare(layer, role="norm")


def _group_of(dim: Dim, axes: Mapping[str, Axis]) -> str:
    """Group of the axis that a dimension runs along; of a concatenation, that of the first."""
    along = [one for one in stretches_of(dim, 0) if isinstance(one, Along)]
    return axes[along[0].axis].group if along else ""


def channels_at(dim: Dim, size: int, axes: Mapping[str, Axis], rate: Rate) -> int:
    """Coordinates of a dimension at a width."""
    count = 0
    for stretch in stretches_of(dim, size):
        if isinstance(stretch, Along):
            axis = axes[stretch.axis]
            kept = kept_units(axis.size, rate_of(rate, axis.group))
            stretch = stretch.outer * kept * stretch.inner
        count += length_of(stretch, axes)
    return count
