"""The study's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.experiments.plot import picture, plain
from benchmarks.experiments.study.regression import NAMES, Fit
from benchmarks.experiments.study.runs import Case, Outcome
from benchmarks.experiments.study.tables import condition

_INK = "#222222"
_SHADE = {0.0: "#a8c8e0", 0.5: "#4393c3", 1.0: "#08306b"}  # of a
_MARK = {0.0: "o", 1.0: "^"}  # of b


def rules(results: Mapping[Case, Outcome], conditions: Sequence[tuple[int, bool]], file: Path) -> None:
    """Draw the worst tenth over the accuracy, both in the end: a panel per condition, a mark per (a, b), c = 0."""
    from matplotlib.lines import Line2D

    with picture(file, (9.6, 6.0), font=8, nrows=2, ncols=3) as axes:
        for axis, which in zip(axes.flat, conditions, strict=True):
            for (a, b), runs in _by_rule(results, which).items():
                x, y = (100 * fmean(values) for values in zip(*((r.accuracy[-1], r.worst) for r in runs), strict=True))
                axis.plot(x, y, _MARK[b], color=_SHADE[a], markersize=9, markeredgecolor="white")
            axis.set_title(condition(*which).replace(", ", ",\n"), loc="left", fontsize=8, color=_INK)
            plain(axis)
            axis.margins(0.15)
        for axis in axes[1]:
            axis.set_xlabel("accuracy of the global network, %")
        for axis in axes[:, 0]:
            axis.set_ylabel("worst tenth of the clients, %")
        marks = [
            Line2D([], [], marker=_MARK[b], color=_SHADE[a], linestyle="", label=_named(a, b))
            for b in _MARK
            for a in _SHADE
            if not (a == 0.5 and b == 0)  # the same rule as a = 1: only the order of the sizes counts
        ]
        axes[0, 0].figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)


def coefficients(fits: Mapping[tuple[int, bool], Fit], file: Path) -> None:
    """Draw every coefficient with its interval."""
    with picture(file, (9.6, 2.6), font=8, ncols=len(NAMES), sharey=True) as axes:
        for axis, name in zip(axes, NAMES, strict=True):
            for y, one in enumerate(fits.values()):
                low, middle, high = (1e3 * side[name] for side in (one.low, one.coefficients, one.high))
                axis.plot([low, high], [y, y], color="#4393c3", linewidth=2)
                axis.plot(middle, y, "o", color="#08306b", markersize=6)
            axis.axvline(0, color="#888888", linewidth=0.8)
            axis.set_title(name, loc="left", fontsize=9, color=_INK)
            axis.set_xlabel("10⁻³ nats per standard deviation")
            plain(axis)
        axes[0].set_yticks(range(len(fits)), [condition(*which) for which in fits])
        axes[0].invert_yaxis()


def _named(a: float, b: float) -> str:
    return f"a = {'½ and 1' if a and not b else '½' if a == 0.5 else f'{a:g}'}, b = {b:g}"


def _by_rule(results: Mapping[Case, Outcome], which: tuple[int, bool]) -> dict[tuple[float, float], list[Outcome]]:
    found: dict[tuple[float, float], list[Outcome]] = {}
    for case, one in results.items():
        if (case.correlation, case.noise) == which and not case.lateness:
            found.setdefault((case.data, case.loss), []).append(one)
    return found
