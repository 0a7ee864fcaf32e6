"""The picture of a run: how well the network of each tier does, against how large it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from server_app.folder.progress import name_of
from server_app.metrics import value_of
from server_app.report.canvas import Spot, Word, draw, size_axis
from server_app.report.drawing import MUTED, finite, in_page
from server_app.report.rounds import tier_colours
from server_app.report.told import Told

_HEIGHT = 235.0
_NEAR = 13.0  # points between two marks that share a name
_SIGNS = ("s", "D", "^", "v", "P", "X")  # of baselines


class Mark(NamedTuple):
    """A tier: parameters of its network, its score in the last round and its own best; None where there is none."""

    tier: str
    parameters: float
    last: float
    best: float | None


def marks_of(told: Told) -> list[Mark]:
    """The tiers whose size and score are known, as the score is shown."""
    scale, peaks = 100.0 if told.share else 1.0, told.summary.get("best_of_tier") or {}
    found = []
    for tier, end in (told.last.get("tiers") or {}).items():
        parameters, last, best = finite(end.get("parameters")), value_of(end), value_of(peaks.get(tier) or {})
        if parameters and last is not None and finite(last) is not None:
            peak = None if finite(best) is None else scale * float(best or 0.0)
            found.append(Mark(tier, parameters, scale * last, peak))
    return found


def against_size(told: Told, baselines: Mapping[str, Told]) -> str:
    """The figure with its caption; "" where there are fewer than two points.

    Args:
        told: of the run.
        baselines: other runs, by the name that they are shown under.

    Raises:
        ValueError: one of them is scored by another metric.
    """
    own = marks_of(told)
    others = {name: found for name, one in baselines.items() if (found := marks_of(one))}
    metric = name_of(told.summary)
    if own and (odd := [name for name in others if name_of(baselines[name].summary) != metric]):
        other = name_of(baselines[odd[0]].summary)
        raise ValueError(f"{odd[0]}: its metric is {other.lower()}, and the run's is {metric.lower()}: no one picture")
    if len(own) + sum(map(len, others.values())) < 2 or not own:
        return ""
    colours, unit = tier_colours(told.tiers), " %" if told.share else ""

    def paint(axes: Any) -> list[Spot | Word]:
        from matplotlib.ticker import MaxNLocator

        found: list[Spot] = []
        for sign, (name, marks) in zip(_SIGNS * len(others), others.items(), strict=False):
            _line(axes, marks)
            look = {"color": MUTED, "markersize": 5.5, "zorder": 3}
            axes.plot([one.parameters for one in marks], [one.last for one in marks], sign, **look)
            ended = baselines[name].last.get("round")
            found += [Spot(one.parameters, one.last, f"{name}, {_said(one, unit, ended)}") for one in marks]
        _line(axes, own)
        for one in own:
            colour = colours[one.tier]
            if one.best is not None:
                axes.plot([one.parameters] * 2, [one.last, one.best], color=colour, linewidth=1, alpha=0.6, zorder=2)
                axes.plot(
                    [one.parameters], [one.best], "o", markersize=6.5, mfc="none", mew=1.1, color=colour, zorder=3
                )
            axes.plot([one.parameters], [one.last], "o", markersize=7, color=colour, zorder=4)
        found += [Spot(one.parameters, one.last, _said(one, unit, told.last.get("round"))) for one in own]
        axes.margins(x=0.09, y=0.14)
        size_axis(axes, [spot.x for spot in found])
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        return [*_names(axes, own, colours), *found]

    title = f"{name_of(told.summary)}{' (%)' if told.share else ''} against the network's size"
    key = '<span><i class="dot full"></i>last round</span><span><i class="dot"></i>own best round</span>'
    glyphs = dict(zip(_SIGNS, "■◆▲▼✚✖", strict=True))
    for sign, name in zip(_SIGNS * len(others), others, strict=False):
        key += f"<span>{glyphs[sign]} {escape(name)}</span>"
    picture = in_page(draw(paint, height=_HEIGHT, label="parameters that a device holds"), "size-")
    return f'<figure><figcaption>{escape(title)}<span class="key">{key}</span></figcaption>{picture}</figure>'


def _line(axes: Any, marks: Sequence[Mark]) -> None:
    ordered = sorted(marks, key=lambda one: one.parameters)
    xs, ys = [one.parameters for one in ordered], [one.last for one in ordered]
    axes.plot(xs, ys, color=MUTED, linewidth=1, zorder=1, alpha=0.55)


def _names(axes: Any, marks: Sequence[Mark], colours: Mapping[str, str]) -> list[Word]:
    """Names beside the marks; marks that are almost at one place share a text."""
    groups: list[tuple[float, float, list[Mark]]] = []
    for one in sorted(marks, key=lambda one: one.parameters):
        x, y = axes.transData.transform((one.parameters, one.last))
        near = next((group for a, b, group in groups if abs(a - x) < _NEAR and abs(b - y) < _NEAR), None)
        if near is None:
            groups.append((x, y, [one]))
        else:
            near.append(one)
    found = []
    for _, _, group in groups:
        first, text = group[0], ", ".join(one.tier for one in group)
        found.append(Word(first.parameters, first.last, text, colours[first.tier], right=8, down=14))
    return found


def _said(one: Mark, unit: str, round_number: object) -> str:
    best = "" if one.best is None else f"\nits own best: {one.best:.2f}{unit}"
    return f"{one.tier}: {one.parameters:,.0f} parameters\nround {round_number}: {one.last:.2f}{unit}{best}"
