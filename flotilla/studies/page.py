"""A comparison as one page that needs no network: what came out, score against size, score by round, tables.

The same runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

from flotilla.studies import tables
from flotilla.studies.results import Result, by_row, last_of, worst_of
from flotilla.studies.statistics import paired, spread
from flotilla.studies.tables import Point, Table
from server_app.report.drawing import DASHES, GRID, MARKS, MUTED, in_page, key_of, style


def page(title: str, results: Sequence[Result], against: str, skipped: Sequence[str], command: str) -> str:
    """The page as HTML.

    Args:
        title: heading.
        results: the runs.
        against: the row that the others are held against.
        skipped: a line for each run that could not be used.
        command: what makes the page again.
    """
    rows = by_row(results)
    colours = {row: MARKS[n % len(MARKS)] for n, row in enumerate(rows)}
    dashes = {row: DASHES[n // len(MARKS) % len(DASHES)] for n, row in enumerate(rows)}
    held = [tables.differences(results, against)] if len(rows) > 1 else []
    told = "".join(f"<section>{_table(table)}</section>" for table in (tables.scores(results), *held))
    rest = "".join(f"<section>{_table(table)}</section>" for table in (tables.costs(results), tables.sizes(results)))
    missing = "".join(f"<li>{escape(line)}</li>" for line in skipped)
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_sentence(results, against))}</p></header>",
        f'<p class="key" style="margin-top:1.4rem">{key_of(colours)}</p>',
        f'<div class="figures">{_figures(results, colours, dashes)}</div>',
        told,
        f"<details><summary>Costs, and every tier</summary>{rest}</details>",
        f"<details><summary>{len(skipped)} left out</summary><ul>{missing}</ul></details>" if skipped else "",
        f"<details><summary>Runs</summary>{_table(_runs(results))}</details>",
        f"<footer><p>Made again by <code>{escape(command)}</code></p></footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Flotilla</title>\n<style>{style()}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _sentence(results: Sequence[Result], against: str) -> str:
    """What came out, in a sentence."""
    rows, unit = by_row(results), " %" if results[0].share else ""
    scale = 100.0 if results[0].share else 1.0

    def best(of: Callable[[Result], float]) -> tuple[str, str]:
        means = {row: spread([of(one) for one in runs]).mean for row, runs in rows.items()}
        first = (max if results[0].higher else min)(means, key=lambda row: means[row])
        return first, f"{scale * means[first]:.{1 if results[0].share else 4}f}{unit}"

    whole, weakest = best(last_of), best(worst_of)
    text = (
        f"{len(results)} runs, {len(rows)} rows. {whole[0]} has the best global network ({whole[1]} in the last round)"
    )
    text += f", {weakest[0]} the best worst tier ({weakest[1]})."
    if whole[0] != against:
        found = paired(rows[whole[0]], rows[against], last_of)
        if found is not None and found.half is not None:
            clear = "a difference that" if found.clear else "which"
            verb = "is clear of 0" if found.clear else "is not clear of 0"
            text += (
                f" That is {scale * found.mean:+.1f} ± {scale * found.half:.1f} on {against}, {clear}"
                f" {verb} on {found.count} seeds."
            )
    return text


def _table(table: Table) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in table.lines)
    shown = f"<table class=numbers><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f"<h2>{escape(table.title)}</h2><div class=wide>{shown}</div>"


def _runs(results: Sequence[Result]) -> Table:
    lines = [[str(one.folder), one.row, str(one.seed)] for one in results]
    return Table(title="Runs", heads=["folder", "row", "seed"], lines=lines)


def _figures(results: Sequence[Result], colours: Mapping[str, str], dashes: Mapping[str, Any]) -> str:
    from matplotlib import rc_context  # a second, which only this needs

    scale = 100.0 if results[0].share else 1.0
    unit = f"{results[0].metric.capitalize()}{' (%)' if results[0].share else ''}"
    found, rows = tables.points(results), by_row(results)
    pictures = []
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flotilla", "font.size": 9}):
        for cost, name in (("parameters", "parameters"), ("macs", "MACs"), ("traffic", "bytes a round")):
            drawn = _drawn(lambda axes, cost=cost: _against(axes, found, cost, scale, colours, dashes))  # type: ignore[misc]
            pictures.append((f"{unit} of every tier against its {name}", drawn))
        pictures.append(
            (f"{unit} of the global network by round", _drawn(lambda axes: _curves(axes, rows, scale, colours, dashes)))
        )
    return "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{in_page(svg, f'f{n}-')}</figure>"
        for n, (title, svg) in enumerate(pictures)
    )


def _against(
    axes: Any,
    found: Sequence[Point],
    cost: str,
    scale: float,
    colours: Mapping[str, str],
    dashes: Mapping[str, Any],
) -> None:
    """A line for every row through its tiers, with the deviation over seeds; tiers on the front have a ring."""
    for row, colour in colours.items():
        own = sorted((point for point in found if point.row == row), key=tables.COSTS[cost])
        xs, ys = [tables.COSTS[cost](point) for point in own], [scale * point.score.mean for point in own]
        errors = [scale * (point.score.deviation or 0.0) for point in own]
        axes.errorbar(
            xs, ys, errors, color=colour, linestyle=dashes[row], linewidth=1.4, elinewidth=0.8, marker="o", markersize=3
        )
        rings = [(x, y) for x, y, point in zip(xs, ys, own, strict=True) if cost in point.fronts]
        axes.plot([x for x, _ in rings], [y for _, y in rings], "o", markersize=7, mfc="none", mew=1.1, color=colour)
    axes.set_xscale("log")


def _curves(
    axes: Any, rows: Mapping[str, Sequence[Result]], scale: float, colours: Mapping[str, str], dashes: Mapping[str, Any]
) -> None:
    """The mean over seeds, and a band of one deviation."""
    for row, runs in rows.items():
        by_round: dict[int, list[float]] = {}
        for one in runs:
            for number, score in one.curve:
                by_round.setdefault(number, []).append(scale * score)
        xs = sorted(by_round)
        found = [spread(by_round[x]) for x in xs]
        axes.plot(xs, [one.mean for one in found], color=colours[row], linestyle=dashes[row], linewidth=1.4)
        if any(one.deviation for one in found):
            low = [one.mean - (one.deviation or 0.0) for one in found]
            high = [one.mean + (one.deviation or 0.0) for one in found]
            axes.fill_between(xs, low, high, color=colours[row], alpha=0.14, linewidth=0)


def _drawn(draw: Callable[[Any], None]) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.1))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.085, 0.1, 0.895, 0.87))
    draw(axes)
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(length=0, which="both", labelcolor=MUTED, pad=4)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.set_axisbelow(True)
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue()
