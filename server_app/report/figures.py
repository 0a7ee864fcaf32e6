"""The figures of a report: SVG inside the page.

They are drawn in placeholder colours which are then exchanged for CSS variables, so the page's style decides what they
look like in light and in dark. The same rows give the same bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any, NamedTuple

from server_app.folder.summary import Row

# Okabe and Ito's colours, told apart with any colour vision; darker (light page) and lighter (dark page) variants.
LIGHT = ("#0072b2", "#d55e00", "#008c69", "#b4578f", "#b98500", "#3c9fd6", "#6b6f76", "#a9adb5")
DARK = ("#4aa8e0", "#f0803c", "#2fbf98", "#dd8fbd", "#e6b83c", "#9bd3f5", "#9aa0a8", "#5f656e")
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_MARKS = tuple(f"#0404{n:02x}" for n in range(len(LIGHT)))
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GRID: "line", **{mark: f"c{n}" for n, mark in enumerate(_MARKS)}}
_DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)))  # a tier beyond the eighth has a known colour, dashed

Series = Sequence[tuple[int, float]]  # (round, value); a value may be NaN, which leaves a gap


def figures(
    rows: Sequence[Row], tiers: Sequence[str], best: int | None, metric: Mapping[str, Any] | None = None
) -> str:
    """All figures, with one key for the tiers above them."""
    # matplotlib takes a second to import, and only the end of a run needs it.
    from matplotlib import rc_context

    tier_lines = {"global": _INK, **{name: _MARKS[n % len(_MARKS)] for n, name in enumerate(tiers)}}
    phases = list(dict.fromkeys(phase for row in rows for phase in row.get("seconds") or {}))
    phase_lines = {name: _MARKS[n % len(_MARKS)] for n, name in enumerate(phases)}

    def by_tier(key: str) -> dict[str, Series]:
        return {"global": _series(rows, key), **{name: _series(rows, "tiers", name, key) for name in tiers}}

    def named(names: Mapping[str, tuple[str, ...]], scale: float = 1) -> dict[str, Series]:
        found = {name: [(n, scale * y) for n, y in _series(rows, *path)] for name, path in names.items()}
        return {name: series for name, series in found.items() if series}

    told = metric or {"name": "accuracy", "share": True}
    scale = 100 if told["share"] else 1
    results = by_tier("score" if metric else "accuracy")
    results = {name: [(n, scale * y) for n, y in series] for name, series in results.items()}
    title = f"{str(told['name']).capitalize()}, whole test set" + (" (%)" if told["share"] else "")
    losses = {**by_tier("loss"), **named({"in training": ("train_loss",)})}
    coverage = named({"this round": ("coverage", "round"), "ever": ("coverage", "ever")})
    traffic = named({"down": ("bytes_down",), "up": ("bytes_up",)}, 1e-6)
    clients: dict[str, Series] = {
        "selected": [(row["round"], float(len(row.get("selected") or ()))) for row in rows],
        "accepted": [(row["round"], float(row.get("accepted") or 0)) for row in rows],
    }
    local = named({"all labels": ("local", "accuracy"), "own labels": ("local", "accuracy_own_labels")}, 100)
    people = named(
        {
            "best 10 %": ("fairness", "best_10_percent_mean"),
            "mean": ("fairness", "mean"),
            "worst 10 %": ("fairness", "worst_10_percent_mean"),
        },
        100,
    )
    first, second, third = _MARKS[:3]
    panels = [
        _Panel(title, results, tier_lines, key=(), best=best),
        _Panel("Loss", losses, {**tier_lines, "in training": _MUTED}, key=("in training",), best=best),
        _Panel("Share of the global network covered", coverage, {"this round": first, "ever": second}),
        _Panel("Mean coverage", named({"mean": ("coverage", "mean")}), {"mean": first}, key=()),
        _Panel("MB a round" + _totals(traffic), traffic, {"down": first, "up": second}, from_zero=True),
        _Panel("Clients a round", clients, {"selected": _MUTED, "accepted": first}, from_zero=True, whole=True),
        _Panel("Accuracy on the clients' own test data (%)", local, {"all labels": first, "own labels": second}),
        _Panel(
            "Mean accuracy of clients, own test data (%)",
            people,
            {"best 10 %": third, "mean": first, "worst 10 %": second},
        ),
    ]
    given_up = [row["round"] for row in rows if row.get("abandoned")]
    pictures = []
    # The two settings of SVG exist only as rcParams; the context gives back what was there.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flotilla", "font.size": 9}):
        for panel in panels:
            if any(math.isfinite(y) for points in panel.series.values() for _, y in points):
                key = {name: panel.colours[name] for name in panel.series if panel.key is None or name in panel.key}
                pictures.append((panel.title, key, _lines(rows, panel, tiers, given_up)))
        if phases:
            pictures.append(("Seconds a round, by phase", phase_lines, _stacked(rows, phase_lines)))
    legend = _key(tier_lines) + "<span><i class='dot'></i>best round of the global network</span>"
    legend += '<span><i class="dot full"></i>last</span>'
    if given_up:
        legend += "<span><b>×</b> abandoned round</span>"
    return (
        f'<p class="key">{legend}</p><div class="figures">'
        + "".join(
            f'<figure><figcaption>{escape(title)}<span class="key">{_key(shown)}</span></figcaption>'
            f"{_in_page(picture, f'f{n}-')}</figure>"
            for n, (title, shown, picture) in enumerate(pictures)
        )
        + "</div>"
    )


class _Panel(NamedTuple):
    """One figure of lines. ``key`` names the lines that get a key of their own (None: all)."""

    title: str
    series: Mapping[str, Series]
    colours: Mapping[str, str]
    key: tuple[str, ...] | None = None
    best: int | None = None
    from_zero: bool = False
    whole: bool = False


def _lines(rows: Sequence[Row], panel: _Panel, tiers: Sequence[str], given_up: Sequence[int]) -> str:
    """Lines over rounds; with ``best``, a ring at that round and a dot at the last, on every tier's line."""

    def draw(axes: Any) -> None:
        for name, points in panel.series.items():
            xs, ys = [n for n, _ in points], [y for _, y in points]
            order = tiers.index(name) if name in tiers else 0
            look = {"color": panel.colours[name], "zorder": 4 if name == "global" else 3}
            dash, width = _DASHES[order // len(_MARKS) % len(_DASHES)], 1.9 if name == "global" else 1.4
            few = "." if len(points) == 1 or not any(map(math.isfinite, ys[1:])) else None
            axes.plot(xs, ys, linestyle=dash, linewidth=width, marker=few, solid_joinstyle="round", **look)
            if panel.best is not None and name != "in training" and points:
                axes.plot(xs[-1:], ys[-1:], "o", markersize=4, clip_on=False, **look)
                at = [(n, y) for n, y in points if n == panel.best]
                axes.plot([n for n, _ in at], [y for _, y in at], "o", markersize=6.5, mfc="none", mew=1.2, **look)
        if panel.best is not None:
            axes.axvline(panel.best, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        floor = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        axes.plot(given_up, [0] * len(given_up), "x", markersize=4.5, color=_INK, **floor)

    return _draw(rows, draw, panel.from_zero, panel.whole)


def _stacked(rows: Sequence[Row], phases: Mapping[str, str]) -> str:
    """Seconds by phase on top of each other, a bar a round: one outline a phase, so 400 rounds draw fast."""
    edges = [rows[0]["round"] - 0.5, *(row["round"] + 0.5 for row in rows)]

    def draw(axes: Any) -> None:
        base = [0.0] * len(rows)
        for phase, colour in phases.items():
            more = [finite((row.get("seconds") or {}).get(phase)) or 0.0 for row in rows]
            top = [low + extra for low, extra in zip(base, more, strict=True)]
            axes.stairs(top, edges, baseline=base, fill=True, color=colour, linewidth=0, zorder=3)
            base = top

    return _draw(rows, draw, from_zero=True)


def _draw(rows: Sequence[Row], draw: Callable[[Any], None], from_zero: bool, whole: bool = False) -> str:
    """Draw a figure with our axes and return it as SVG text."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.2, 2.5))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.085, 0.13, 0.895, 0.83))
    draw(axes)
    axes.set_xlim(rows[0]["round"] - 0.5, max(rows[-1]["round"], rows[0]["round"] + 1) + 0.5)
    axes.margins(y=0.06)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.tick_params(length=0, labelcolor=_MUTED, pad=4)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.set_axisbelow(True)
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _in_page(svg: str, prefix: str) -> str:
    """Make an SVG file part of a page: no prolog, metadata or fonts; ids of its own; colours from the page's style."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    return re.sub(r"#0[1-4]\w{4}\b", lambda found: f"var(--{_VARIABLES.get(found[0], 'ink')})", svg)


def _series(rows: Iterable[Row], *path: str) -> list[tuple[int, float]]:
    """(round, number at this path) of the rounds that have the path; null and what is no number become NaN."""
    points = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value.get(key, _series) if isinstance(value, Mapping) else _series
        if value is not _series:  # a mark for "absent", which None (a NaN in the run) is not
            number = finite(value)
            points.append((row["round"], math.nan if number is None else number))
    return points


def finite(value: object) -> float | None:
    """The number that a value is; None for infinities, NaN, null and what is no number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _totals(traffic: Mapping[str, Series]) -> str:
    sums = [f"{sum(y for _, y in points if math.isfinite(y)):,.0f} {name}" for name, points in traffic.items()]
    return f" (in all {', '.join(sums)})" if sums else ""


def _key(colours: Mapping[str, str]) -> str:
    """Swatches and names."""
    swatch = '<span><i style="background:var(--{})"></i>{}</span>'
    return "".join(swatch.format(_VARIABLES[colour], escape(name)) for name, colour in colours.items())
