"""What tiers hold of a network: its axes, what is not cut and why, and what every part costs.

A value of JSON, because a run folder keeps it (`server_app.opening`). `flotilla inspect` prints it, and a report draws
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.algebra.axes import Layout
from models.algebra.plans import Plan
from models.cost import cost_of, training_bytes
from models.networks.build import layout, submodel
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec

_BYTES = 4  # of a float32
_NAMED = 3  # tensors of an axis, a stage, a reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a tier keeps.

    Attributes:
        rate: its width, as text.
        plan: the part.
        batch_size: examples of a training step, for the memory.
    """

    rate: str
    plan: Plan
    batch_size: int


def inspected(spec: NetworkSpec, tiers: Mapping[str, Part], whole: Part, most: int | None = None) -> dict[str, Any]:
    """Find out what tiers hold of a network.

    Args:
        spec: a completed spec; the network is proved if its axes are found.
        tiers: their parts, by name.
        whole: what all of it is.
        most: axes, stages and reasons that are listed; None is all.

    Returns:
        "name", "input", "classes", "norm"; "proof" of a network whose axes were found; "axes", "stages", "whole" (what
        is not cut) and "unused", each line with its first tensors and the number of all; "axes_more" and so on, where
        lines were left out; "full", the whole network's costs, and "tiers", every tier's, with its kept units of every
        listed axis and, as far as the network has them, its stages, residual blocks and nets. Costs are "parameters"
        (trained numbers), "macs" (multiply-accumulates of one forward pass), "bytes" (that cross the wire one way, as
        float32) and "memory" (bytes to train it, beside the process).
    """
    alone = replace(spec, private=(), variants=(), bases=0)  # of copies, and of nets side by side, one
    declared = layout(alone)
    cut = [axis for axis in declared.axes.values() if axis.kind.shrinks]
    along = _along(declared)
    axes = [{"name": one.name, "size": one.size, "group": one.group, **_some(along[one.name])} for one in cut]
    told: dict[str, Any] = {
        "name": spec.name,
        "input": list(spec.input_shape),
        "classes": spec.classes,
        "norm": spec.norm,
        **_listed("axes", axes, most),
        **_listed("stages", _stages(declared), most),
        **_found(spec, most),
    }
    names = [axis["name"] for axis in told["axes"]]
    told["full"] = _costs(spec, whole)
    told["tiers"] = {
        name: {"rate": part.rate, **_costs(spec, part), **_held(spec, part.plan, alone, names)}
        for name, part in tiers.items()
    }
    return told


def _found(spec: NetworkSpec, most: int | None) -> dict[str, Any]:
    """What was found of an ordinary module that is trained whole, and how it was proved."""
    prove = NETWORKS[spec.name].prove
    if prove is None or spec.adapter is not None:
        return {}
    found, proof = prove(spec)
    reasons = [{"why": why, **_some(names)} for why, names in found.whole.items()]
    return {
        "proof": {"moved": proof.moved, "differs": proof.differs, "fingerprint": found.fingerprint},
        **_listed("whole", reasons, most),
        **({"unused": _some(list(found.traced.unused))} if found.traced.unused else {}),
    }


def _along(declared: Layout) -> dict[str, list[str]]:
    """Axis → the tensors that run along it."""
    along: dict[str, list[str]] = {name: [] for name in declared.axes}
    for name, tensor in declared.tensors.items():
        for axis in tensor.axes:
            along[axis].append(name)
    return along


def _stages(declared: Layout) -> list[dict[str, Any]]:
    """The stages that depths count, and the residual blocks in them; none where it cannot be cut in depth."""
    tensors: dict[int, list[str]] = {}
    blocks: dict[int, set[int]] = {}
    for name, tensor in declared.tensors.items():
        if tensor.stage:
            tensors.setdefault(tensor.stage, []).append(name)
            blocks.setdefault(tensor.stage, set()).update({tensor.block} - {0})
    return [
        {"stage": stage, "blocks": [min(blocks[stage]), max(blocks[stage])] if blocks[stage] else [], **_some(names)}
        for stage, names in sorted(tensors.items())
    ]


def _costs(spec: NetworkSpec, part: Part) -> dict[str, int]:
    cost = cost_of(spec, part.plan)
    return {
        "parameters": cost.parameters,
        "macs": cost.macs,
        "bytes": _BYTES * submodel(spec, part.plan).numel,
        "memory": training_bytes(spec, part.plan, part.batch_size, reckoned=True),
    }


def _held(spec: NetworkSpec, plan: Plan, alone: NetworkSpec, axes: Sequence[str]) -> dict[str, Any]:
    """Kept units of every axis, and of what else there are several, and how many there are: counted in the part."""
    declared, part = layout(alone), submodel(alone, replace(plan.holding, bases=None))
    tensors = [declared.tensors[name] for name in part]
    reached = frozenset[str]().union(*(tensor.axes for tensor in tensors))
    found: dict[str, Any] = {"units": [part.sizes[name] if name in reached else 0 for name in axes]}
    if declared.depth:
        found["stages"] = [max(tensor.stage for tensor in tensors), declared.depth]
    if declared.blocks:
        found["blocks"] = [len({tensor.block for tensor in tensors} - {0}), len(declared.blocks)]
    if spec.bases:
        found["nets"] = [spec.bases if plan.bases is None else len(plan.bases), spec.bases]
    return found


def _some(names: Sequence[str]) -> dict[str, Any]:
    return {"tensors": list(names[:_NAMED]), "of": len(names)}


def _listed(key: str, lines: Sequence[Any], most: int | None) -> dict[str, Any]:
    kept = list(lines[:most])
    return {key: kept, **({f"{key}_more": len(lines) - len(kept)} if len(kept) < len(lines) else {})}
