"""A comparison as one page that needs no network: what came out, score against size, score by round, tables.

The same runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from flotilla.studies import tables
from flotilla.studies.pictures import pictures
from flotilla.studies.results import Result, by_row, last_of, worst_of
from flotilla.studies.statistics import paired, spread
from flotilla.studies.tables import Table
from server_app.report.drawing import MARKS, key_of
from server_app.report.style import document
from server_app.report.tables import folded, section, table


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
    held = [tables.differences(results, against)] if len(rows) > 1 else []
    seeds = {str(one.seed) for one in results}
    counted = f"{_count(len(results), 'run')}, {_count(len(rows), 'row')}, {_count(len(seeds), 'seed')}"
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{counted}</p></header>",
        f'<p class="said">{escape(_sentence(results, against))}</p>',
        f'<p class="key" style="margin-top:1.6rem">{_key(colours)}</p>',
        f'<div class="figures">{pictures(results, colours, against)}</div>',
        *(section(found.title, _table(found)) for found in (tables.scores(results), *held)),
        *(
            folded(found.title, _table(found))
            for found in (tables.costs(results), tables.sizes(results), _runs(results))
        ),
        folded(f"{len(skipped)} left out", f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in skipped)}</ul>")
        if skipped
        else "",
        section("Make it again", f"<pre>{escape(command)}</pre>"),
    ]
    return document(title, parts)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _key(colours: Mapping[str, str]) -> str:
    """Rows beyond the eighth have a colour again, dashed."""
    rings = "<span><i class='dot'></i>nobody has more for less (Pareto)</span>"
    return key_of(colours) + rings


def _sentence(results: Sequence[Result], against: str) -> str:
    """What came out, in a sentence."""
    rows, unit = by_row(results), " %" if results[0].share else ""
    scale = 100.0 if results[0].share else 1.0

    def best(of: Callable[[Result], float]) -> tuple[str, str]:
        means = {row: spread([of(one) for one in runs]).mean for row, runs in rows.items()}
        first = (max if results[0].higher else min)(means, key=lambda row: means[row])
        return first, f"{scale * means[first]:.{1 if results[0].share else 4}f}{unit}"

    whole, weakest = best(last_of), best(worst_of)
    text = f"{whole[0]} has the best global network ({whole[1]} in the last round)"
    text += f"{' and' if weakest[0] == whole[0] else f', {weakest[0]}'} the best worst tier ({weakest[1]})."
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


def _table(found: Table) -> str:
    return table(found.heads, found.lines, "numbers long")


def _runs(results: Sequence[Result]) -> Table:
    lines = [[str(one.folder), one.row, str(one.seed)] for one in results]
    return Table(title="Runs", heads=["folder", "row", "seed"], lines=lines)
