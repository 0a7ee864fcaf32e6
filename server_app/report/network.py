"""The network of a run: what tiers hold of it, drawn and in numbers; axes, stages and what is not cut are folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from server_app.folder.progress import count
from server_app.report.drawing import in_page, key_of
from server_app.report.network_picture import picture, tier_marks
from server_app.report.rounds import tier_colours
from server_app.report.tables import folded, megabytes, table
from server_app.report.told import Told


def network(run: Told) -> str:
    """The section's content; "" of a run folder that does not say."""
    told: Mapping[str, Any] = run.holdings.get("network") or {}
    if not told:
        return ""
    tiers: Mapping[str, Any] = told["tiers"]
    known = tier_colours(run.tiers)
    colours = {name: known.get(name, usual) for name, usual in tier_marks(tiers).items()}
    drawn = in_page(picture(told, colours), "network-")
    title = f'Share of units and of costs that a tier has <span class="key">{key_of(colours)}</span>'
    figure = f"<figure><figcaption>{title}</figcaption>{drawn}</figure>"
    return (
        f"<p class=note>{escape(said(told))}</p>"
        f'<div class="pair" style="margin-top:1rem">{figure}<div>{_tiers(told)}</div></div>'
        + _axes(told)
        + _stages(told)
        + _whole(told)
    )


def said(told: Mapping[str, Any]) -> str:
    """One line on the network, and how what was found was proved."""
    shape = " x ".join(map(str, told["input"]))
    text = f"{told['name']}: inputs {shape}, {told['classes']} classes, norm {told['norm']}."
    if proof := told.get("proof"):
        text += (
            f" Its axes were found and proved: units in other places move the logits by {proof['moved']:.0e}, half of"
            f" it and the whole with zeros differ by {proof['differs']:.0e}, of the largest; fingerprint"
            f" {proof['fingerprint']}."
        )
    return text


def named(line: Mapping[str, Any]) -> str:
    """The first tensors of a line, and how many more there are."""
    more = line["of"] - len(line["tensors"])
    return ", ".join(line["tensors"]) + (f" and {more} more" if more > 0 else "")


def _tiers(told: Mapping[str, Any]) -> str:
    heads = ["tier", "rate", "parameters", "of all", "MACs", "one way", "to train"]
    lines = [
        [
            name,
            str(one["rate"]),
            f"{one['parameters']:,}",
            f"{100 * one['parameters'] / max(told['full']['parameters'], 1):.1f} %",
            count(one["macs"]),
            megabytes(one["bytes"]),
            megabytes(one["memory"]),
        ]
        for name, one in told["tiers"].items()
    ]
    note = "One way: as float32, before any codec. To train: estimated, of one step, beside the process itself."
    return table(heads, lines, "numbers") + f"<p class=note>{note}</p>"


def _axes(told: Mapping[str, Any]) -> str:
    heads = ["axis", "units", *told["tiers"], "group", "tensors along it"]
    lines = [
        [
            axis["name"],
            f"{axis['size']:,}",
            *(f"{one['units'][n]:,}" for one in told["tiers"].values()),
            axis["group"] or "–",
            named(axis),
        ]
        for n, axis in enumerate(told["axes"])
    ]
    total, more = _number(told, "axes", "axis", "axes")
    return folded(f"{total} that can be cut, and the units that tiers keep", _lines(heads, lines, more))


def _stages(told: Mapping[str, Any]) -> str:
    lines = [[str(one["stage"]), span(one["blocks"]), named(one)] for one in told["stages"]]
    total, more = _number(told, "stages", "stage", "stages")
    return folded(f"{total}, which depths count", _lines(["stage", "residual blocks", "tensors"], lines, more))


def _whole(told: Mapping[str, Any]) -> str:
    lines = [[one["why"], named(one)] for one in told.get("whole", ())]
    if unused := told.get("unused"):
        lines.append(["not read by its forward, and left out", named(unused)])
    _, more = _number(told, "whole", "", "")
    return folded("What is not cut, and why", table([], lines, "pairs") + more if lines else "")


def span(blocks: Sequence[int]) -> str:
    """Numbers of residual blocks that follow each other."""
    return "–" if not blocks else f"{blocks[0]}" if blocks[0] == blocks[-1] else f"{blocks[0]} to {blocks[-1]}"


def _number(told: Mapping[str, Any], key: str, one: str, many: str) -> tuple[str, str]:
    """How many lines there are, and a note if not all of them are there."""
    more = told.get(f"{key}_more", 0)
    total = len(told.get(key, ())) + more
    note = f"<p class=note>{more:,} more are not listed here: flotilla inspect lists all.</p>" if more else ""
    return f"{total:,} {one if total == 1 else many}", note


def _lines(heads: Sequence[str], lines: Sequence[Sequence[str]], more: str) -> str:
    return table(heads, lines, "numbers long words") + more if lines else ""
