"""Fills in what a spec leaves to its network, and refuses what no network can be."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from models.adapters.adapter import ATTENTION, CONVOLUTION, HEAD, LINEAR, PAIR, Adapter
from models.adapters.low_rank import beside_base, is_transposed, targets_met
from models.adapters.precision import lower_weights
from models.algebra.axes import axes_along, heads
from models.algebra.plans import Plan
from models.algebra.precisions import FLOAT32
from models.errors import SettingError
from models.networks.build import blank, layout, without_adapter
from models.networks.network import ROWS
from models.networks.registry import NETWORKS
from models.networks.spec import EXITS, NetworkSpec
from models.predictions import predictions
from models.variants.per_size_parameters import PRIVATE

SMALL = 16  # pixels a side
_SHOWN = 12  # names of axes in an error


@lru_cache(maxsize=64)
def completed(spec: NetworkSpec) -> NetworkSpec:
    """Fill in a network's default widths, blocks and norm, and check the spec.

    Raises:
        SettingError: unknown network or norm, widths or blocks of the wrong length, too small an input.
    """
    network = NETWORKS[spec.name]
    usual_norm = spec.norm or network.norms[0]
    if usual_norm not in network.norms:
        raise SettingError("norm", spec.norm, (*network.norms[:-1], f"{network.norms[-1]} for {spec.name!r}"))
    sides = spec.input_shape[1:]
    dimensions = len(spec.input_shape)
    if dimensions == 1 and not spec.vocabulary:
        dimensions = ROWS
    if dimensions not in network.dimensions or bool(spec.vocabulary) != (dimensions == 1):
        kinds = {ROWS: "rows of tables", 1: "texts", 2: "signals", 3: "images"}
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
    if spec.widths and not network.widths:
        raise SettingError("widths", spec.widths, f'"" for {spec.name!r}, which has widths of its own')
    if min(widths, default=1) < 1 or (network.fixed_widths and len(widths) != len(network.widths)):
        raise SettingError("widths", spec.widths, f"{len(network.widths)} positive whole numbers for {spec.name!r}")
    stages = len(network.blocks) if network.fixed_widths else len(widths)
    if spec.blocks and (not network.blocks or len(blocks) != stages or min(blocks) < 1):
        allowed = f"{stages} positive whole numbers, and only for a residual network"
        raise SettingError("blocks", spec.blocks, allowed)
    if blocks and len(blocks) != stages:
        raise SettingError("widths", spec.widths, f"as many as there are stages ({len(blocks)})")
    if spec.ends and network.prove is None:
        raise SettingError("blocks", ", ".join(spec.ends), "whole numbers; only of an ordinary module they are modules")
    if sides and min(sides) < network.smallest:
        allowed = f"a network for {sides} inputs; {spec.name!r} needs {network.smallest}"
        raise SettingError("model", spec.name, allowed)
    full = replace(spec, widths=widths, blocks=blocks, norm=usual_norm)
    if network.written_out is not None:
        full = replace(full, options=tuple(network.written_out(dict(spec.options)).items()))
    if spec.adapter is not None:
        _check_adapter(full, spec.adapter)
    try:
        # On real zeros: the meta device would import torch._dynamo and sympy, which takes seconds.
        with torch.no_grad():
            blank(full).train()(examples(full, 2))
    except RuntimeError as error:
        allowed = f"a network whose layers fit inputs of {spec.input_shape} ({error})"
        raise SettingError("widths", spec.widths, allowed) from None
    return full if network.prove is None else replace(full, fingerprint=network.prove(full)[0].fingerprint)


def _check_adapter(spec: NetworkSpec, adapter: Adapter) -> None:
    """See that there is something to train beside a base, and that the network uses it.

    Raises:
        SettingError: there is no head and no pair, or no layer has the pair that is meant; a layer's product would be
            added to nothing, or to a weight that is stored as its transpose.
    """
    told = f"lora:{adapter.rank}" if adapter.rank else HEAD
    own = [name for name in ("private", "bases", "dual", "step_sizes") if getattr(spec, name)]
    if own:
        raise SettingError("adapter", told, f'"" where a method or another key changes the network ({", ".join(own)})')
    if adapter.cut and (adapter.form != PAIR or adapter.merges or spec.norm == "batch-per-width"):
        allowed = "tiers with the whole base: no part of it with this method or norm (batch-per-width)"
        raise SettingError("tiers", "a part of the base", allowed)
    declared = layout(spec)
    if not heads(declared) and not adapter.rank:
        raise SettingError("adapter", told, f'"": {spec.name!r} has no layer that counts classes')
    beside = beside_base(declared)
    if adapter.rank and not beside:
        wanted = ", ".join(adapter.targets)
        allowed = f"some linear layers, or convolutions without groups, of {spec.name!r} other than its head"
        raise SettingError("adapter-targets", wanted, allowed)
    check_precision(spec, adapter.precision)
    network = blank(spec).train()
    _check_targets(spec, adapter, targets_met(network))
    # Every exit: what only shallower ones use has no gradient from the deepest.
    torch.autograd.backward([logits.sum() for logits in predictions(network, examples(spec, 2))])
    if adapter.merges and any(is_transposed(module) for module in network.modules()):
        allowed = f'"" with this method: {spec.name!r} has linear layers whose weights are stored as transposes'
        raise SettingError("adapter", told, allowed)
    state = network.state_dict(keep_vars=True)
    if unused := [name for name in beside if state[name].grad is None]:
        raise SettingError(
            "adapter", told, f'"": {spec.name!r} uses weights of {unused[0]!r} without calling the layer'
        )


def _check_targets(spec: NetworkSpec, adapter: Adapter, met: frozenset[str]) -> None:
    """See that every target is some layer's; the head's too, which is trained whole.

    Raises:
        SettingError: one is none's.
    """
    declared = layout(spec)
    wholes = [declared.tensors[name].dims for name in heads(declared)]
    met |= {target for dims in wholes if len(dims) == 2 for target in adapter.naming(dims)}
    for target in adapter.targets if adapter.rank else ():
        if target not in met:
            axes = sorted(
                {axis for tensor in layout(without_adapter(spec)).tensors.values() for axis in axes_along(tensor.dims)}
            )
            some = ", ".join(axes[:_SHOWN]) + (", …" if len(axes) > _SHOWN else "")
            allowed = (
                f"{LINEAR}, {ATTENTION}, {CONVOLUTION} or patterns of names of axes, each of which some layer of "
                f"{spec.name!r} has; its axes: {some}"
            )
            raise SettingError("adapter-targets", target, allowed)


def check_precision(spec: NetworkSpec, precision: str) -> None:
    """See that a network can compute on a base that is held in this precision.

    Raises:
        SettingError: it has no base, or nothing in it that is held in fewer bits, or uses a weight without calling its
            layer.
    """
    if precision in ("", FLOAT32):
        return
    if spec.adapter is None:
        raise SettingError("base-precision", precision, f"{FLOAT32} without an adapter")
    network = blank(spec, plan=Plan(precision=precision)).train()
    if not lower_weights(network):
        allowed = f"{FLOAT32} for {spec.name!r}, which has no linear layers that are frozen"
        raise SettingError("base-precision", precision, allowed)
    try:
        with torch.no_grad():
            predictions(network, examples(spec, 2))
    except RuntimeError:
        allowed = f"{FLOAT32} for {spec.name!r}, which uses weights of linear layers without calling them"
        raise SettingError("base-precision", precision, allowed) from None


def examples(spec: NetworkSpec, count: int) -> Tensor:
    """Make inputs of the right shape and type, all zero, on the default device."""
    return torch.zeros(count, *spec.input_shape, dtype=torch.int64 if spec.vocabulary else torch.float32)
