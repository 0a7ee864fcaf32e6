"""A comparison as tables: for people (Markdown), for papers (LaTeX), for programs (CSV)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import floor, isfinite, log10

from flotilla.studies.results import Result, by_row, last_of, worst_of
from flotilla.studies.statistics import LEVEL, Spread, front, paired, spread

NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text.

    Attributes:
        title: one line.
        heads, lines: the cells; the first column has names, the others numbers.
    """

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As Markdown."""
        rule = ["---", *("---:" for _ in self.heads[1:])]
        rows = [self.heads, rule, *([cell.replace("|", r"\|") for cell in line] for line in self.lines)]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def latex(self) -> str:
        """As a LaTeX table for the package booktabs."""
        rows = " \\\\\n".join(" & ".join(map(_latex, line)) for line in self.lines)
        columns = "l" + "r" * (len(self.heads) - 1)
        return (
            f"\\begin{{table}}\n\\caption{{{_latex(self.title)}}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
            f"{' & '.join(map(_latex, self.heads))} \\\\\n\\midrule\n{rows} \\\\\n\\bottomrule\n"
            "\\end{tabular}\n\\end{table}"
        )


def scores(results: Sequence[Result]) -> Table:
    """Score of every row: last round beside best, every tier, the worst tier and the worst clients."""
    names = _tier_names(results)
    with_clients = any(result.clients is not None for result in results)
    lines = []
    for row, runs in by_row(results).items():
        scale = _scale(runs)
        cells = [
            str(len(runs)),
            f"{_shown([one.last for one in runs], scale)} / {_shown([one.best for one in runs], scale)}",
        ]
        cells += [_of_tier(runs, name, scale) for name in names]
        cells.append(_shown([one.worst for one in runs], scale))
        if with_clients:
            told = [one.clients for one in runs if one.clients is not None]
            cells.append(_shown(told, scale) if told else NONE)
        lines.append([row, *cells])
    heads = ["", "runs", "global, last / best", *names, "worst tier", *(["worst clients"] if with_clients else [])]
    return Table(
        title=f"{_metric(results)}, last round unless said; mean ± standard deviation", heads=heads, lines=lines
    )


def differences(results: Sequence[Result], against: str) -> Table:
    """What every row has more than one of them, on the same seeds, with the interval of the mean."""
    rows = by_row(results)
    base = rows[against]
    lines = []
    for row, runs in rows.items():
        if row == against:
            continue
        scale, cells, pairs = _scale(runs), [], 0
        for of in (last_of, worst_of):
            found = paired(runs, base, of)
            pairs = found.count if found else 0
            if found is None:
                cells.append(NONE)
            elif found.half is None:
                cells.append(_number(found.mean, scale, "+"))
            else:
                mark = " *" if found.clear else ""
                cells.append(f"{_number(found.mean, scale, '+')} ± {_number(found.half, scale)}{mark}")
        lines.append([row, str(pairs), *cells])
    title = f"More than {against}, by pairs of runs of one seed; {LEVEL:.0%} interval by Student's t, * leaves 0 out"
    return Table(title=title, heads=["", "pairs", "global", "worst tier"], lines=lines)


def costs(results: Sequence[Result]) -> Table:
    """What the runs of a row cost."""
    lines = []
    for row, runs in by_row(results).items():
        memory = [one.memory for one in runs if one.memory is not None]
        traffic = _shown([one.traffic for one in runs], 1e-6)
        lines.append([row, traffic, _shown([one.seconds for one in runs], 1.0), _shown(memory, 1e-6) or NONE])
    heads = ["", "MB sent, whole run", "seconds of its rounds", "server's memory, MB"]
    return Table(title="Costs of a run; mean ± standard deviation", heads=heads, lines=lines)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A tier of a row, as a point of score against cost.

    Attributes:
        row, tier: whose.
        score: mean over the runs, of the last round.
        parameters, macs, traffic: as `results.TierResult`.
        fronts: of the costs above, those for which nobody beats it (Pareto).
    """

    row: str
    tier: str
    score: Spread
    parameters: float
    macs: float
    traffic: float
    fronts: tuple[str, ...]


COSTS: Mapping[str, Callable[[Point], float]] = {
    "parameters": lambda point: point.parameters,
    "macs": lambda point: point.macs,
    "traffic": lambda point: point.traffic,
}


def points(results: Sequence[Result]) -> list[Point]:
    """Every tier of every row, and on which fronts it is."""
    found = [
        Point(
            row=row,
            tier=name,
            score=spread([one.tiers[name].last for one in runs if name in one.tiers]),
            parameters=runs[0].tiers[name].parameters,
            macs=runs[0].tiers[name].macs,
            traffic=runs[0].tiers[name].traffic,
            fronts=(),
        )
        for row, runs in by_row(results).items()
        for name in runs[0].tiers
    ]
    sign = 1 if results[0].higher else -1
    on = {cost: front([(of(point), sign * point.score.mean) for point in found]) for cost, of in COSTS.items()}
    return [
        Point(
            row=point.row,
            tier=point.tier,
            score=point.score,
            parameters=point.parameters,
            macs=point.macs,
            traffic=point.traffic,
            fronts=tuple(cost for cost in COSTS if on[cost][i]),
        )
        for i, point in enumerate(found)
    ]


def sizes(results: Sequence[Result]) -> Table:
    """Score against what a device of each tier pays; what nobody beats is marked."""
    scale = _scale(results)
    lines = [
        [
            f"{point.row}, {point.tier}",
            _spread(point.score, scale),
            *(f"{of(point):,.0f}{' *' if cost in point.fronts else ''}" for cost, of in COSTS.items()),
        ]
        for point in points(results)
    ]
    heads = ["", _metric(results), "parameters", "MACs", "bytes a round"]
    return Table(
        title="Score against cost by tier; * no other tier of any row has more for less", heads=heads, lines=lines
    )


def as_csv(results: Sequence[Result]) -> str:
    """A line for every run and tier, the global network as tier "global"; numbers as they are."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    told = ["row", "seed", "tier", "metric", "last", "best", "parameters", "macs", "bytes_a_round", "run"]
    writer.writerow(told)
    for one in results:
        writer.writerow([one.row, one.seed, "global", one.metric, one.last, one.best, "", "", "", one.folder])
        for name, tier in one.tiers.items():
            numbers = [tier.last, tier.best, int(tier.parameters), int(tier.macs), int(tier.traffic)]
            writer.writerow([one.row, one.seed, name, one.metric, *numbers, one.folder])
    return text.getvalue()


def _tier_names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.tiers))


def _of_tier(runs: Sequence[Result], name: str, scale: float) -> str:
    return _shown([one.tiers[name].last for one in runs if name in one.tiers], scale) or NONE


def _scale(runs: Sequence[Result]) -> float:
    return 100.0 if runs[0].share else 1.0


def _metric(results: Sequence[Result]) -> str:
    one = results[0]
    return one.metric.capitalize() + (" in %" if one.share else "" if one.higher else " (less is better)")


def _shown(values: Sequence[float], scale: float) -> str:
    return _spread(spread(values), scale) if values else ""


def _spread(found: Spread, scale: float) -> str:
    """A mean with its deviation; where there is no scale, both to the second digit of the deviation."""
    if scale == 1 and found.deviation and isfinite(found.deviation):
        places = min(max(1 - floor(log10(found.deviation)), 0), 6)
        return f"{found.mean:.{places}f} ± {found.deviation:.{places}f}"
    return _number(found.mean, scale) + ("" if found.deviation is None else f" ± {_number(found.deviation, scale)}")


def _number(value: float, scale: float, sign: str = "") -> str:
    """A share in per cent and costs to a tenth, a score as it is to four digits."""
    return f"{value:{sign}.4g}" if scale == 1 and abs(value) < 1000 else f"{scale * value:{sign}.1f}"


_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"}
)


def _latex(text: str) -> str:
    return text.translate(_LATEX)
