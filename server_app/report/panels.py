"""Figures by round: lines over rounds and bars on top of each other. The same rows give the same bytes.

What does not change, or has one value, is no figure: it is a line of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from server_app.folder.summary import Row
from server_app.report.canvas import Spot, draw
from server_app.report.drawing import DASHES, INK, MARKS, MUTED, in_page, key_of
from server_app.report.tables import folded, table
from server_app.report.told import Series, Told

_STEADY = 1e-9  # relative difference that is none


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of lines.

    Attributes:
        title: of it.
        series: by name.
        colours: by name.
        key: the lines that get a key of their own; None is all.
        best: a round that is marked on every tier's line.
        from_zero: whether the vertical axis begins there.
        whole: whether values are whole numbers.
        unit: after a value.
    """

    title: str
    series: Mapping[str, Series]
    colours: Mapping[str, str]
    key: tuple[str, ...] | None = None
    best: int | None = None
    from_zero: bool = False
    whole: bool = False
    unit: str = ""

    @property
    def empty(self) -> bool:
        """Whether no line has a value."""
        return not any(math.isfinite(y) for points in self.series.values() for _, y in points)

    @property
    def flat(self) -> bool:
        """Whether no line changes."""
        for points in self.series.values():
            ys = [y for _, y in points if math.isfinite(y)]
            if ys and max(ys) - min(ys) > _STEADY * max(map(abs, ys)):
                return False
        return True

    def values(self) -> str:
        """Of a flat panel, what its lines have."""
        found = {name: next((y for _, y in points if math.isfinite(y)), None) for name, points in self.series.items()}
        return ", ".join(f"{name} {y:.4g}{self.unit}" for name, y in found.items() if y is not None)


def figures(told: Told, panels: Sequence[Panel], legend: str, prefix: str, *more: tuple[str, str, str]) -> str:
    """Those that say something, and below them what the others have.

    Args:
        told: of the run.
        panels: the figures.
        legend: above them.
        prefix: of ids in the page.
        more: (title, key, SVG) of others that come first.
    """
    panels = [panel for panel in panels if not panel.empty]
    given_up = [row["round"] for row in told.rows if row.get("abandoned")]
    drawn = list(more)
    for panel in panels:
        if not panel.flat:
            key = {name: panel.colours[name] for name in panel.series if panel.key is None or name in panel.key}
            drawn.append((panel.title, key_of(key), _lines(told, panel, given_up)))
    pictures = "".join(
        f'<figure><figcaption>{escape(title)}<span class="key">{key}</span></figcaption>'
        f"{in_page(picture, f'{prefix}{n}-')}</figure>"
        for n, (title, key, picture) in enumerate(drawn)
    )
    named = ", ".join(panel.title for panel in panels if panel.flat)
    flat = [[panel.title, panel.values()] for panel in panels if panel.flat]
    rest = folded(f"The same in every round: {named}", table([], flat, "pairs")) if flat else ""
    return (f'{legend}<div class="figures">{pictures}</div>' if pictures else "") + rest


def _lines(told: Told, panel: Panel, given_up: Sequence[int]) -> str:
    """Lines over rounds; with ``best``, a ring at that round and a dot at the last, on every tier's line."""
    from matplotlib.ticker import MaxNLocator

    rows, tiers = told.rows, told.tiers

    def paint(axes: Any) -> list[Spot]:
        for name, points in panel.series.items():
            xs, ys = [n for n, _ in points], [y for _, y in points]
            order = tiers.index(name) if name in tiers else 0
            # The global network's line is wide and below, so that of the tier that is the same one is seen on it.
            look = {"color": panel.colours[name], "zorder": 2.5 if name == "global" else 3}
            dash, width = DASHES[order // len(MARKS) % len(DASHES)], 3.0 if name == "global" else 1.4
            few = "." if len(points) == 1 or not any(map(math.isfinite, ys[1:])) else None
            axes.plot(xs, ys, linestyle=dash, linewidth=width, marker=few, solid_joinstyle="round", **look)
            if panel.best is not None and name != "in training" and points:
                axes.plot(xs[-1:], ys[-1:], "o", markersize=4, clip_on=False, **look)
                at = [(n, y) for n, y in points if n == panel.best]
                axes.plot([n for n, _ in at], [y for _, y in at], "o", markersize=6.5, mfc="none", mew=1.2, **look)
        if panel.best is not None:
            axes.axvline(panel.best, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        floor = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        axes.plot(given_up, [0] * len(given_up), "x", markersize=4.5, color=INK, **floor)
        round_axis(axes, rows)
        axes.margins(y=0.06)
        if panel.from_zero:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=panel.whole))
        return spots(panel.series, panel.unit)

    return draw(paint)


def spots(lines: Mapping[str, Series], unit: str) -> list[Spot]:
    """For every round, what its lines have there."""
    found: dict[int, list[str]] = {}
    for name, points in lines.items():
        for n, y in points:
            if math.isfinite(y):
                found.setdefault(n, []).append(f"{name} {y:.4g}{unit}")
    return [Spot(n, None, "\n".join([f"round {n}", *found[n]])) for n in sorted(found)]


def round_axis(axes: Any, rows: Sequence[Row]) -> None:
    """The horizontal axis of rounds."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(rows[0]["round"] - 0.5, max(rows[-1]["round"], rows[0]["round"] + 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def stacked(rows: Sequence[Row], parts: Mapping[str, Sequence[float]], colours: Mapping[str, str], unit: str) -> str:
    """Numbers on top of each other, a bar a round: one outline a part, so 400 rounds draw fast.

    Args:
        rows: of the run.
        parts: by name, a number for every row.
        colours: by name.
        unit: after a value.
    """
    edges = [rows[0]["round"] - 0.5, *(row["round"] + 0.5 for row in rows)]

    def paint(axes: Any) -> list[Spot]:
        base = [0.0] * len(rows)
        for name, more in parts.items():
            top = [low + extra for low, extra in zip(base, more, strict=True)]
            axes.stairs(top, edges, baseline=base, fill=True, color=colours[name], linewidth=0, zorder=3)
            base = top
        round_axis(axes, rows)
        axes.margins(y=0.06)
        axes.set_ylim(bottom=0)
        lines = {name: [(row["round"], y) for row, y in zip(rows, ys, strict=True) if y] for name, ys in parts.items()}
        return spots(lines, unit)

    return draw(paint)
