"""What tiers hold of a network, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.algebra.plans import Plan
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from server_app.inspection import Part, inspected
from server_app.report.network import named, span
from strategies.tiers.reach import check_groups
from strategies.tiers.tier import Tier


def inspect(spec: NetworkSpec, tiers: Sequence[Tier], batch_size: int) -> dict[str, Any]:
    """Find out what tiers hold of a network, in width.

    Args:
        spec: the network; it is completed, and proved if its axes are found.
        tiers: by width.
        batch_size: examples of a step, for the memory.

    Returns:
        See `server_app.inspection.inspected`.

    Raises:
        SettingError: there is no such network, or tiers have rates for groups that it has not.
    """
    whole = completed(spec)
    check_groups(layout(whole), tiers)
    parts = {one.name: Part(rate=str(one.rate), plan=Plan(one.rate), batch_size=batch_size) for one in tiers}
    return inspected(whole, parts, Part(rate="1", plan=Plan(), batch_size=batch_size))


def text(told: Mapping[str, Any]) -> str:
    """As a person reads it."""
    return "\n".join([*_head(told), "", *_axes(told), "", *_depth(told), *_whole(told), "", *_tiers(told)])


def _head(told: Mapping[str, Any]) -> Iterator[str]:
    shape = " x ".join(map(str, told["input"]))
    yield f"{told['name']}: inputs {shape}, {told['classes']} classes, norm {told['norm']}"
    if proof := told.get("proof"):
        yield (
            f"found and proved: units in other places move the logits by {proof['moved']:.0e}, half of it and the whole"
            f" with zeros differ by {proof['differs']:.0e}, of the largest; fingerprint {proof['fingerprint']}"
        )


def _axes(told: Mapping[str, Any]) -> Iterator[str]:
    axes = told["axes"]
    room = max([4, *(len(one["name"]) for one in axes)])
    group = max([5, *(len(one["group"]) for one in axes)])
    yield f"{'axis':<{room}}{'units':>7}   {'group':<{group}}   tensors along it"
    for one in axes:
        yield f"{one['name']:<{room}}{one['size']:>7}   {one['group'] or '-':<{group}}   {named(one)}"


def _depth(told: Mapping[str, Any]) -> Iterator[str]:
    """The stages that depths count, and the residual blocks in them."""
    if not told["stages"]:
        yield "not cut in depth: it has fewer than two residual blocks, and no stages"
        return
    yield f"{'stage':<8}{'blocks':<20}   tensors"
    for one in told["stages"]:
        yield f"{one['stage']:<8}{span(one['blocks']):<20}   {named(one)}"


def _whole(told: Mapping[str, Any]) -> Iterator[str]:
    if "whole" not in told:
        return
    yield from ("", "not cut")
    for one in told["whole"]:
        yield f"  {one['why']}: {named(one)}"
    if unused := told.get("unused"):
        yield f"  not read by its forward, and left out: {named(unused)}"


def _tiers(told: Mapping[str, Any]) -> Iterator[str]:
    tiers, full = told["tiers"], told["full"]["parameters"]
    rate = max([6, *(2 + len(one["rate"]) for one in tiers.values())])
    heads = f"{'parameters':>13}{'share':>8}{'MACs':>13}{'MB one way':>13}{'memory MB':>12}"
    yield f"{'tier':<8}{'rate':>{rate}}{heads}"
    for name, one in tiers.items():
        yield (
            f"{name:<8}{one['rate']:>{rate}}{one['parameters']:>13,}{one['parameters'] / full:>8.1%}{one['macs']:>13,}"
            f"{one['bytes'] / 1e6:>13.4f}{one['memory'] / 1e6:>12.1f}"
        )
