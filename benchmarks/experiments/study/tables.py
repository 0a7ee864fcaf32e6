"""The study's tables, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import fmean, median, stdev

from benchmarks.document import table
from benchmarks.experiments.study.regression import NAMES, Fit
from benchmarks.experiments.study.runs import CLIENTS, ROUNDS, SPEEDS, Case, Outcome

TARGET = 0.9
CORRELATIONS = {-1: "large devices have little data", 0: "size and tier unrelated", 1: "large devices have much data"}
Results = Mapping[Case, Outcome]


def condition(correlation: int, noise: bool) -> str:
    """What a condition is called."""
    return CORRELATIONS[correlation] + (", a quarter with noisy labels" if noise else "")


def reached(outcome: Outcome) -> int | None:
    """The first round after which the global network is as good as `TARGET`."""
    return next((i for i, accuracy in enumerate(outcome.accuracy, 1) if accuracy >= TARGET), None)


def _middle(values: Sequence[float | None], unit: str = "") -> str:
    found = median(inf if value is None else value for value in values)
    return "-" if found == inf else f"{found:.{1 if unit else 0}f}"


def _points(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f}"


def rules(results: Results, correlation: int, noise: bool) -> str:
    """One row per rule: what came of it in one condition."""
    lines = []
    chosen = {case: one for case, one in results.items() if (case.correlation, case.noise) == (correlation, noise)}
    for exponents in sorted({(case.data, case.loss, case.lateness) for case in chosen}):
        runs = [one for case, one in chosen.items() if (case.data, case.loss, case.lateness) == exponents]
        rounds = [reached(one) for one in runs]
        taken = [None if number is None else one.seconds[number - 1] for number, one in zip(rounds, runs, strict=True)]
        lines.append(
            [
                *(f"{value:g}" for value in exponents),
                _middle(rounds),
                _middle(taken, "s"),
                _points([one.accuracy[-1] for one in runs]),
                " / ".join(_points([one.tiers[name] for one in runs]) for name in SPEEDS),
                f"{fmean(one.variance for one in runs):.0f}",
                _points([one.worst for one in runs]),
                " / ".join(f"{100 * fmean(one.updates[name] for one in runs):.0f}" for name in SPEEDS),
                f"{100 * fmean(one.noisy for one in runs):.0f}" if noise else "-",
            ]
        )
    heads = [
        "a",
        "b",
        "c",
        "rounds",
        "seconds",
        "accuracy",
        "a / b / c",
        "variance",
        "worst 10 %",
        "updates a / b / c",
        "noisy",
    ]
    return table(heads, lines, markdown=True)


Measure = Callable[[Outcome], float]
MEASURES: dict[str, Measure] = {
    "accuracy": lambda one: 100 * one.accuracy[-1],
    "smallest tier": lambda one: 100 * one.tiers["c"],
    "worst 10 %": lambda one: 100 * one.worst,
    "variance": lambda one: one.variance,
}
CHANGES = {
    "a: 0 → 1 (b = 0)": ((0.0, 0.0), (1.0, 0.0)),
    "a: 0 → 1 (b = 1)": ((0.0, 1.0), (1.0, 1.0)),
    "b: 0 → 1 (a = 0)": ((0.0, 0.0), (0.0, 1.0)),
    "b: 0 → 1 (a = 1)": ((1.0, 0.0), (1.0, 1.0)),
}


def effects(results: Results) -> str:
    """What an exponent changes at c = 0: mean over seeds of the difference between runs of the same seed."""
    lines = []
    for correlation, noise in dict.fromkeys((case.correlation, case.noise) for case in results):
        for name, (before, after) in CHANGES.items():
            pairs = _pairs(results, correlation, noise, before, after)
            cells = [_change([measure(b) - measure(a) for a, b in pairs]) for measure in MEASURES.values()]
            lines.append([condition(correlation, noise), name, *cells])
    return table(["condition", "change", *MEASURES], lines, markdown=True)


def _pairs(
    results: Results, correlation: int, noise: bool, before: tuple[float, float], after: tuple[float, float]
) -> list[tuple[Outcome, Outcome]]:
    seeds = sorted({case.seed for case in results})
    sides = [
        [Case(data=data, loss=loss, lateness=0.0, correlation=correlation, noise=noise, seed=seed) for seed in seeds]
        for data, loss in (before, after)
    ]
    return [(results[a], results[b]) for a, b in zip(*sides, strict=True) if a in results and b in results]


def _change(changes: Sequence[float]) -> str:
    error = f" ± {stdev(changes) / len(changes) ** 0.5:.1f}" if len(changes) > 1 else ""
    return f"{fmean(changes):+.1f}{error}" if changes else "-"


def regressions(fits: Mapping[tuple[int, bool], Fit]) -> str:
    """Coefficients with their intervals, in thousandths of a nat."""
    lines = [
        [
            condition(*which),
            *(f"{1e3 * one.coefficients[k]:+.1f} [{1e3 * one.low[k]:+.1f}, {1e3 * one.high[k]:+.1f}]" for k in NAMES),
            f"{one.explained:.2f}",
            f"{one.added:.3f}",
            str(one.rounds),
        ]
        for which, one in fits.items()
    ]
    return table(["condition", *NAMES, "R²", "of the three", "rounds"], lines, markdown=True)


def legend() -> str:
    """What the columns of `rules` are."""
    return (
        f"rounds, seconds: until the global network has {TARGET:.0%}, median over seeds, - if not in {ROUNDS} rounds;"
        f" seconds are the devices', not this machine's. accuracy: global network; a / b / c: of each tier's network;"
        f" variance (percent points squared) and worst 10 %: over the {CLIENTS} clients; updates: share from each tier;"
        " noisy: share from clients with noisy labels. Last round, mean over seeds, in %."
    )
