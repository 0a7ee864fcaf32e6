"""The figures of a comparison: score against what tiers cost, score by round, differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from flotilla.studies import tables
from flotilla.studies.results import Result, by_row, last_of, worst_of
from flotilla.studies.statistics import LEVEL, Spread, paired, spread
from flotilla.studies.tables import Point
from server_app.report.canvas import Spot, Word, draw, size_axis
from server_app.report.drawing import DASHES, INK, MARKS, in_page

_COSTS = {"parameters": "parameters", "macs": "MACs of one example", "traffic": "bytes a round, both ways"}
_MOST_NAMES = 30  # rows of the figure of differences
_LETTERS = 26  # of a row's name in a figure


def pictures(results: Sequence[Result], colours: Mapping[str, str], against: str) -> str:
    """Figures with their captions.

    Args:
        results: the runs.
        colours: of the rows.
        against: the row that the others are held against.
    """
    rows, found = by_row(results), tables.points(results)
    one = results[0]
    scale, name = 100.0 if one.share else 1.0, f"{one.metric.capitalize()}{' (%)' if one.share else ''}"
    drawn = []
    for cost, words in _COSTS.items():
        title = f"{name} of every tier by {words.split()[0]}"
        drawn.append((title, draw(_against(found, cost, scale, colours), height=230, label=words)))
    if any(len(run.curve) > 1 for run in results):
        drawn.append((f"{name} of the global network by round", draw(_curves(rows, scale, colours), height=230)))
    if len(rows) > 1 and (gaps := _gaps(rows, against, scale)):
        unit = " points" if one.share else ""
        title = f"More than {against}, global network{f' ({unit.strip()})' if unit else ''}, {LEVEL:.0%} interval"
        height = 70 + 24.0 * len(gaps)
        drawn.append((title, draw(_differences(gaps, colours, unit), height=height, rows=True)))
    return "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{in_page(svg, f'f{n}-')}</figure>"
        for n, (title, svg) in enumerate(drawn)
    )


def dash_of(row: str, colours: Mapping[str, str]) -> Any:
    """How a row's line is dashed: colours are used again after the eighth row."""
    return DASHES[list(colours).index(row) // len(MARKS) % len(DASHES)]


def _against(
    found: Sequence[Point], cost: str, scale: float, colours: Mapping[str, str]
) -> Callable[[Any], Iterable[Spot]]:
    """A line for every row through its tiers, with the deviation over seeds; tiers on the front have a ring."""
    of = tables.COSTS[cost]

    def paint(axes: Any) -> list[Spot]:
        spots = []
        for row, colour in colours.items():
            own = sorted((point for point in found if point.row == row), key=of)
            xs, ys = [of(point) for point in own], [scale * point.score.mean for point in own]
            errors = [scale * (point.score.deviation or 0.0) for point in own]
            look = {"color": colour, "linestyle": dash_of(row, colours), "linewidth": 1.4, "marker": "o"}
            axes.errorbar(xs, ys, errors if any(errors) else None, elinewidth=0.9, markersize=3.5, **look)
            ringed = [(x, y) for x, y, point in zip(xs, ys, own, strict=True) if cost in point.fronts]
            ring = {"markersize": 8, "mfc": "none", "mew": 1.1, "color": colour}
            axes.plot([x for x, _ in ringed], [y for _, y in ringed], "o", **ring)
            for x, y, point in zip(xs, ys, own, strict=True):
                spots.append(Spot(x, y, f"{row}, {point.tier}\n{x:,.0f} {cost}\n{_said(point.score, scale)}"))
        axes.margins(x=0.06, y=0.08)
        size_axis(axes, [spot.x for spot in spots])
        return spots

    return paint


def _curves(
    rows: Mapping[str, Sequence[Result]], scale: float, colours: Mapping[str, str]
) -> Callable[[Any], Iterable[Spot]]:
    """The mean over seeds, and a band of one deviation."""

    def paint(axes: Any) -> list[Spot]:
        said: dict[int, list[str]] = {}
        for row, runs in rows.items():
            by_round: dict[int, list[float]] = {}
            for one in runs:
                for number, score in one.curve:
                    by_round.setdefault(number, []).append(scale * score)
            xs = sorted(by_round)
            found = [spread(by_round[x]) for x in xs]
            axes.plot(
                xs, [one.mean for one in found], color=colours[row], linestyle=dash_of(row, colours), linewidth=1.4
            )
            if any(one.deviation for one in found):
                low = [one.mean - (one.deviation or 0.0) for one in found]
                high = [one.mean + (one.deviation or 0.0) for one in found]
                axes.fill_between(xs, low, high, color=colours[row], alpha=0.14, linewidth=0)
            for x, mean in zip(xs, found, strict=True):
                said.setdefault(x, []).append(f"{row} {_said(mean, 1.0)}")
        axes.margins(x=0.02, y=0.06)
        return [Spot(x, None, "\n".join([f"round {x}", *said[x][:_MOST_NAMES]])) for x in sorted(said)]

    return paint


def _gaps(rows: Mapping[str, Sequence[Result]], against: str, scale: float) -> dict[str, list[tuple[float, float]]]:
    """By row, (difference, half of its interval) of the global network and of the worst tier; 0 of one pair."""
    gaps: dict[str, list[tuple[float, float]]] = {}
    for row, runs in rows.items():
        found = [paired(runs, rows[against], of) for of in (last_of, worst_of)] if row != against else []
        if found and all(found) and len(gaps) < _MOST_NAMES:
            gaps[row] = [(scale * one.mean, scale * (one.half or 0.0)) for one in found if one is not None]
    return gaps


def _differences(
    gaps: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, str], unit: str
) -> Callable[[Any], Iterable[Spot | Word]]:
    """A dot and its interval for every row; its name above."""

    def paint(axes: Any) -> list[Spot | Word]:
        found: list[Spot | Word] = []
        for n, (row, ((gap, half), (worst, around))) in enumerate(gaps.items()):
            axes.errorbar([gap], [n], xerr=[half] if half else None, fmt="o", markersize=5, color=colours[row])
            text = f"{row}\nglobal {gap:+.3g} ± {half:.3g}{unit}\nworst tier {worst:+.3g} ± {around:.3g}{unit}"
            found.append(Spot(gap, n, text))
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        axes.margins(x=0.08)
        axes.set_ylim(len(gaps) - 0.45, -0.75)
        axes.set_yticks([])
        left = axes.get_xlim()[0]
        names = [row if len(row) <= _LETTERS else row[: _LETTERS - 1] + "…" for row in gaps]
        words = [Word(left, n, name, right=-52, down=-7) for n, name in enumerate(names)]
        return [*words, *found]

    return paint


def _said(score: Spread, scale: float) -> str:
    text = f"{scale * score.mean:.4g}"
    if score.deviation is not None and math.isfinite(score.deviation):
        text += f" ± {scale * score.deviation:.2g} ({score.count} seeds)"
    return text
