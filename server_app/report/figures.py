"""The figures of a report: SVG inside the page. The same rows give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any, NamedTuple

from server_app.folder.summary import Row
from server_app.report.drawing import DASHES, GRID, INK, MARKS, MUTED, finite, in_page, key_of

Series = Sequence[tuple[int, float]]  # (round, value); a value may be NaN, which leaves a gap


def figures(
    rows: Sequence[Row], tiers: Sequence[str], best: int | None, metric: Mapping[str, Any] | None = None
) -> str:
    """All figures, with one key for the tiers above them."""
    # matplotlib takes a second to import, and only the end of a run needs it.
    from matplotlib import rc_context

    tier_lines = {"global": INK, **{name: MARKS[n % len(MARKS)] for n, name in enumerate(tiers)}}
    phases = list(dict.fromkeys(phase for row in rows for phase in row.get("seconds") or {}))
    phase_lines = {name: MARKS[n % len(MARKS)] for n, name in enumerate(phases)}

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
    scored: Row = next((row["fairness"] for row in rows if row.get("fairness")), {})
    of_clients, as_share = scored.get("metric", "accuracy"), "variance" not in scored
    people = named(
        {
            "best 10 %": ("fairness", "best_10_percent_mean"),
            "mean": ("fairness", "mean"),
            "worst 10 %": ("fairness", "worst_10_percent_mean"),
        },
        100 if as_share else 1,
    )
    first, second, third = MARKS[:3]
    panels = [
        _Panel(title, results, tier_lines, key=(), best=best),
        _Panel("Loss", losses, {**tier_lines, "in training": MUTED}, key=("in training",), best=best),
        _Panel("Share of the global network covered", coverage, {"this round": first, "ever": second}),
        _Panel("Mean coverage", named({"mean": ("coverage", "mean")}), {"mean": first}, key=()),
        _Panel("MB a round" + _totals(traffic), traffic, {"down": first, "up": second}, from_zero=True),
        _Panel("Clients a round", clients, {"selected": MUTED, "accepted": first}, from_zero=True, whole=True),
        _Panel("Accuracy on the clients' own test data (%)", local, {"all labels": first, "own labels": second}),
        _Panel(
            f"Mean {of_clients} of clients, own test data{' (%)' if as_share else ''}",
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
    legend = key_of(tier_lines) + "<span><i class='dot'></i>best round of the global network</span>"
    legend += '<span><i class="dot full"></i>last</span>'
    if given_up:
        legend += "<span><b>×</b> abandoned round</span>"
    return (
        f'<p class="key">{legend}</p><div class="figures">'
        + "".join(
            f'<figure><figcaption>{escape(title)}<span class="key">{key_of(shown)}</span></figcaption>'
            f"{in_page(picture, f'f{n}-')}</figure>"
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
            dash, width = DASHES[order // len(MARKS) % len(DASHES)], 1.9 if name == "global" else 1.4
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
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(length=0, labelcolor=MUTED, pad=4)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.set_axisbelow(True)
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue()


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


def _totals(traffic: Mapping[str, Series]) -> str:
    sums = [f"{sum(y for _, y in points if math.isfinite(y)):,.0f} {name}" for name, points in traffic.items()]
    return f" (in all {', '.join(sums)})" if sums else ""
