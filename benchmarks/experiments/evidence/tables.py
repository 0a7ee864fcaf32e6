"""The tables of docs/evidence.md, from lines of its CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import correlation, mean, stdev

from benchmarks.document import table
from benchmarks.experiments.evidence.left_out import OUT
from benchmarks.experiments.evidence.limits import BOARDS, LIMITS, ROWS, SIZES, Needs, given, parts, sizes, whole
from benchmarks.experiments.evidence.peak import measured_bytes
from benchmarks.experiments.evidence.rows import Row
from benchmarks.experiments.evidence.settings import UNLIKE
from server_app.tier_records import GLOBAL

CHANCE = 0.1  # accuracy of guessing, of the data of the limits
_NOTHING = "–"
Wanted = Sequence[tuple[str, str, int]]  # part, method, seed


def accuracies(rows: Sequence[Row]) -> str:
    """A part's table: accuracies of the last round in percent, the best round beside, and what was sent."""
    names = list(dict.fromkeys(_board(row.tier) for row in rows if row.tier != GLOBAL))
    asked = any(row.worst_clients is not None for row in rows)
    limited = any(row.part.startswith("limit-") for row in rows)
    heads = ["method", "runs", *names, "global", "best round", "worst tier"]
    heads += ["all boards"] * limited + ["worst clients"] * asked + ["MB up", "CPU s"]
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        every = [row for row in own if row.tier == GLOBAL]
        lines.append(
            [
                method,
                str(len(every)),
                *(_tier([row for row in own if _board(row.tier) == name]) for name in names),
                _spread([row.last for row in every]),
                _spread([row.best for row in every]),
                _worst(own),
                *([_all_boards(own)] * limited),
                *([_spread([row.worst_clients for row in every if row.worst_clients is not None])] * asked),
                f"{mean(row.run_bytes_up for row in every) / 1e6:.2f}",
                f"{mean(row.cpu_seconds for row in every):.1f}",
            ]
        )
    return table(heads, lines, markdown=True)


def costs(rows: Sequence[Row]) -> str:
    """What a device of the largest and of the smallest tier pays with each method, in a part."""
    names = list(dict.fromkeys(row.tier for row in rows if row.tier != GLOBAL))
    ends = names[0], names[-1]
    heads = ["method", *(f"{what}, {ends[0]} / {ends[1]}" for what in ("parameters", "kMACs", "kB up", "peak kB"))]
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [[row for row in rows if row.method == method and row.tier == end] for end in ends]

        def both(of: Callable[[Row], int | None], scale: float, own: list[list[Row]] = own) -> str:
            return " / ".join(_mean([of(row) for row in one], scale) for one in own)

        lines.append(
            [
                method,
                both(lambda row: row.parameters, 1.0),
                both(lambda row: row.macs, 1e-3),
                both(lambda row: row.bytes_up, 1e-3),
                both(lambda row: row.peak_bytes, 1e-3),
            ]
        )
    return table(heads, lines, markdown=True)


def given_sizes(limit: str) -> str:
    """What every board got of every method under a limit, and the longest round."""

    def takes(needs: Needs) -> float:
        return {"memory": needs.memory, "compute": needs.macs, "link": needs.up}[limit]

    lines = []
    for row in ROWS:
        got = given(limit, row)
        own = [got[board.name] for board in BOARDS]
        cells = [f"{one.size}: {takes(one.needs) / takes(whole()):.3f}" if one.size else _NOTHING for one in own]
        late = max(one.late for one in got.values())
        lines.append([row, *cells, f"{late:.2f}" if late else _NOTHING])
    return table(["method", *(board.name for board in BOARDS), "longest round / deadline"], lines, markdown=True)


def missing(rows: Sequence[Row], wanted: Wanted) -> str:
    """Which runs are not there, in words; "" if all are."""
    there = {(row.part, row.method, row.seed) for row in rows}
    lost = [one for one in wanted if one not in there]
    parts: dict[tuple[str, int], list[str]] = {}
    for part, method, seed in lost:
        parts.setdefault((part, seed), []).append(method)
    return "; ".join(f"{part}, seed {seed}: {_names(part, methods, wanted)}" for (part, seed), methods in parts.items())


def _names(part: str, methods: Sequence[str], wanted: Wanted) -> str:
    every = {method for where, method, _ in wanted if where == part}
    return "all rows" if len(methods) == len(every) else ", ".join(methods)


def text(rows: Sequence[Row], wanted: Wanted, titles: Mapping[str, str]) -> str:
    """Everything that is measured, as Markdown.

    Args:
        rows: lines of the CSV, in order.
        wanted: the runs that there should be.
        titles: of the parts, in order.
    """
    runs = {row.run: row for row in rows}
    seconds = sum(row.cpu_seconds for row in runs.values())
    versions = ", ".join(sorted({row.torch for row in rows}))
    lost = missing(rows, wanted)
    blocks = [
        f"{len(runs)} of {len(wanted)} runs, {seconds / 3600:.2f} hours of one processor in all; torch {versions}."
        + (f" Missing: {lost}." if lost else "")
    ]
    for part, title in titles.items():
        own = [row for row in rows if row.part == part]
        if not own:
            continue
        seeds = ", ".join(str(seed) for seed in sorted({row.seed for row in own}))
        blocks.append(f"**{title}**, seeds {seeds}; accuracies in %\n\n{accuracies(own)}")
    blocks.append(agreement(rows, titles))
    return "\n\n".join(block for block in blocks if block)


def agreement(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Whether methods for unlike devices come in one order whatever the division: rank correlations over seed means."""
    found = {
        part: [
            mean(row.last for row in rows if (row.part, row.method) == (part, method) and row.tier != GLOBAL)
            for method in UNLIKE
        ]
        for part in titles
        if {row.method for row in rows if row.part == part} >= set(UNLIKE)
    }
    ranks = {part: [sorted(scores).index(score) for score in scores] for part, scores in found.items()}
    pairs = [(one, other) for one, other in combinations(ranks, 2) if one.partition("-")[0] == other.partition("-")[0]]
    lines = [[titles[one], titles[other], f"{correlation(ranks[one], ranks[other]):.2f}"] for one, other in pairs]
    if not lines:
        return ""
    told = f"**Order of methods**: rank correlation of the mean over tiers between divisions, of {', '.join(UNLIKE)}"
    return f"{told}\n\n{table(['division', 'other division', 'correlation'], lines, markdown=True)}"


def all_costs(rows: Sequence[Row], parts: Sequence[str], titles: Mapping[str, str]) -> str:
    """The costs of some parts."""
    found = {part: [row for row in rows if row.part == part] for part in parts}
    return "\n\n".join(f"**{titles[part]}**: what a device pays\n\n{costs(own)}" for part, own in found.items() if own)


def peaks() -> str:
    """The largest and the smallest part of every method: memory by the cost model, and counted tensor by tensor."""
    lines = []
    for row in SIZES:
        strategy, plans = parts(row)
        for size in (SIZES[row][1][0], SIZES[row][1][-1]):
            batch = strategy.settings.work.batch_size
            said, found = sizes(row)[size].memory, measured_bytes(strategy.network, plans[size], batch)
            lines.append([row, size, f"{said / 1e3:,.0f}", f"{found / 1e3:,.0f}", f"{found / said:.2f}"])
    heads = ["method", "size", "kB by the cost model", "kB counted", "ratio"]
    return "**Peak of a training step**, batch of 32\n\n" + table(heads, lines, markdown=True)


def all_sizes() -> str:
    """The parts of all limits, and whether the memory that they are chosen by is there."""
    return (
        "\n\n".join(
            f"**{limit.capitalize()}**: size, and what it takes of the whole plain network\n\n{given_sizes(limit)}"
            for limit in LIMITS
        )
        + f"\n\n{peaks()}"
    )


def _board(tier: str) -> str:
    return tier.removesuffix(OUT)


def _tier(rows: Sequence[Row]) -> str:
    return _NOTHING if not rows or rows[0].tier.endswith(OUT) else _spread([row.last for row in rows])


def _worst(rows: Sequence[Row]) -> str:
    """Of the tiers' last accuracies the least, seed by seed; "none" where somebody has no network."""
    tiers = [row for row in rows if row.tier != GLOBAL]
    if any(row.tier.endswith(OUT) for row in tiers):
        return "none"
    return _spread([min(row.last for row in tiers if row.seed == seed) for seed in sorted({r.seed for r in tiers})])


def _all_boards(rows: Sequence[Row]) -> str:
    """Mean over the boards, seed by seed; who is left out guesses."""
    tiers = [row for row in rows if row.tier != GLOBAL]
    scores = {
        seed: [CHANCE if row.tier.endswith(OUT) else row.last for row in tiers if row.seed == seed]
        for seed in sorted({row.seed for row in tiers})
    }
    return _spread([mean(one) for one in scores.values()])


def _spread(values: Sequence[float]) -> str:
    """Mean in percent and, of several, standard deviation."""
    if not values:
        return _NOTHING
    return f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def _mean(values: Sequence[int | None], scale: float) -> str:
    known = [one for one in values if one is not None]
    return f"{mean(known) * scale:,.{0 if scale == 1.0 else 1}f}" if known else _NOTHING
