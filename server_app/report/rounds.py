"""Which figures by round a report has: scores and losses, the clients' own data, bytes, seconds, coverage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from server_app.folder.summary import Row
from server_app.report.drawing import INK, MARKS, MUTED, finite, key_of
from server_app.report.panels import Panel, figures, stacked
from server_app.report.tables import duration, megabytes
from server_app.report.told import Series, Told, series

_BESIDES = "besides training"
_MOST_PHASES = 6  # of a round's seconds that have a colour of their own; the others are added up


def tier_colours(tiers: Sequence[str]) -> dict[str, str]:
    """Of the global network and the tiers."""
    return {"global": INK, **{name: MARKS[n % len(MARKS)] for n, name in enumerate(tiers)}}


def by_round(told: Told) -> str:
    """Scores and losses, with one key for the tiers above them."""
    rows, lines = told.rows, tier_colours(told.tiers)
    scale, best = 100 if told.share else 1, told.best.get("round")
    name = str((told.summary.get("metric") or {}).get("name", "accuracy"))
    title = f"{name.capitalize()}, whole test set" + (" (%)" if told.share else "")
    scores = {line: [(n, scale * y) for n, y in points] for line, points in _by_tier(told, told.score).items()}
    losses = {**_by_tier(told, "loss"), **_named(rows, {"in training": ("train_loss",)})}
    colours = {**lines, "in training": MUTED}
    panels = [
        Panel(title=title, series=scores, colours=lines, key=(), best=best, unit=" %" if told.share else ""),
        Panel(title="Loss", series=losses, colours=colours, key=("in training",), best=best),
        *_of_clients(rows),
    ]
    legend = key_of(lines) + "<span><i class='dot'></i>best round of the global network</span>"
    legend += '<span><i class="dot full"></i>last</span>'
    if any(row.get("abandoned") for row in rows):
        legend += "<span><b>×</b> abandoned round</span>"
    return figures(told, panels, f'<p class="key">{legend}</p>', "s")


def costs_by_round(told: Told) -> str:
    """Bytes, seconds, coverage, clients."""
    rows = told.rows
    first, second, third, fourth = MARKS[:4]
    traffic = _named(
        rows, {"down": ("bytes_down",), "up": ("bytes_up",), "up, ideal coder": ("entropy_bytes_up",)}, 1e-6
    )
    if _alike(traffic.get("up", ()), traffic.get("up, ideal coder", ())):
        del traffic["up, ideal coder"]  # nothing is gained by coding levels that are as likely as each other
    traffic |= _besides(rows)
    clients: dict[str, Series] = {
        "asked": [(row["round"], float(len(row.get("selected") or ()))) for row in rows],
        "counted": [(row["round"], float(row.get("accepted") or 0)) for row in rows],
    }
    coverage = _named(rows, {"this round": ("coverage", "round"), "ever": ("coverage", "ever")}, 100)
    virtual = _named(rows, {"virtual": ("virtual_seconds",)})
    panels = [
        Panel(
            title="MB a round" + _totals(traffic),
            series=traffic,
            colours={"down": first, "up": second, "up, ideal coder": third, _BESIDES: fourth},
            from_zero=True,
            unit=" MB",
        ),
        Panel(title="Seconds a round of the virtual fleet", series=virtual, colours={"virtual": first}, key=()),
        Panel(
            title="Clients a round",
            series=clients,
            colours={"asked": MUTED, "counted": first},
            from_zero=True,
            whole=True,
        ),
        Panel(
            title="Share of the global network covered (%)",
            series=coverage,
            colours={"this round": first, "ever": second},
            unit=" %",
        ),
        Panel(
            title="Holders of a coordinate, mean",
            series=_named(rows, {"mean": ("coverage", "mean")}),
            colours={"mean": first},
            key=(),
        ),
    ]
    return figures(told, panels, "", "c", *_seconds(rows))


def _seconds(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Seconds by phase; the least of them are one."""
    total = Counter[str]()
    for row in rows:
        total.update({phase: finite(value) or 0.0 for phase, value in (row.get("seconds") or {}).items()})
    if not total:
        return []
    named = [phase for phase, _ in total.most_common(_MOST_PHASES)]
    parts = {
        phase: [finite((row.get("seconds") or {}).get(phase)) or 0.0 for row in rows]
        for phase in total
        if phase in named
    }
    if rest := [phase for phase in total if phase not in named]:
        parts["else"] = [sum(finite((row.get("seconds") or {}).get(phase)) or 0.0 for phase in rest) for row in rows]
    colours = {phase: MARKS[n] for n, phase in enumerate(parts)}
    key = key_of({f"{phase} {duration(sum(parts[phase]))}": colour for phase, colour in colours.items()})
    return [("Seconds a round, by phase", key, stacked(rows, parts, colours, " s"))]


def _of_clients(rows: Sequence[Row]) -> list[Panel]:
    """How the clients do on their own test data."""
    first, second, third = MARKS[:3]
    local = _named(rows, {"all labels": ("local", "accuracy"), "own labels": ("local", "accuracy_own_labels")}, 100)
    scored: Row = next((row["fairness"] for row in rows if row.get("fairness")), {})
    metric, share = scored.get("metric", "accuracy"), "variance" not in scored
    people = _named(
        rows,
        {
            "best 10 %": ("fairness", "best_10_percent_mean"),
            "mean": ("fairness", "mean"),
            "worst 10 %": ("fairness", "worst_10_percent_mean"),
        },
        100 if share else 1,
    )
    title = f"Mean {metric} of clients, own test data{' (%)' if share else ''}"
    return [
        Panel(
            title="Accuracy on the clients' own test data (%)",
            series=local,
            colours={"all labels": first, "own labels": second},
            unit=" %",
        ),
        Panel(
            title=title,
            series=people,
            colours={"best 10 %": third, "mean": first, "worst 10 %": second},
            unit=" %" if share else "",
        ),
    ]


def _by_tier(told: Told, key: str) -> dict[str, Series]:
    return {"global": series(told.rows, key), **{name: series(told.rows, "tiers", name, key) for name in told.tiers}}


def _named(rows: Sequence[Row], names: Mapping[str, tuple[str, ...]], scale: float = 1) -> dict[str, Series]:
    found = {name: [(n, scale * y) for n, y in series(rows, *path)] for name, path in names.items()}
    return {name: points for name, points in found.items() if points}


def _besides(rows: Sequence[Row]) -> dict[str, Series]:
    """Megabytes of what is asked besides training (statistics, scores on devices), both ways, where it counts."""
    asked = [(row["round"], 1e-6 * _sum(row, "bytes_survey_down", "bytes_survey_up")) for row in rows]
    trained = sum(1e-6 * _sum(row, "bytes_down", "bytes_up") for row in rows)
    return {_BESIDES: asked} if sum(y for _, y in asked) > 0.02 * trained else {}


def _sum(row: Row, *keys: str) -> float:
    return sum(finite(row.get(key)) or 0.0 for key in keys)


def _totals(traffic: Mapping[str, Series]) -> str:
    sums = [
        f"{megabytes(1e6 * sum(y for _, y in points if math.isfinite(y)))} {name}" for name, points in traffic.items()
    ]
    return f" (in all {', '.join(sums)})" if sums else ""


def _alike(one: Series, other: Series) -> bool:
    """Whether two lines differ by less than a fiftieth everywhere."""
    return bool(other) and all(abs(x - y) <= 0.02 * abs(x) for (_, x), (_, y) in zip(one, other, strict=False))
