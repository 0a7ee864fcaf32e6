"""The study's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.study.regression import NAMES, Fit
from benchmarks.study.runs import Case, Outcome
from benchmarks.study.tables import condition

_INK = "#222222"
_SHADE = {0.0: "#a8c8e0", 0.5: "#4393c3", 1.0: "#08306b"}  # of a
_MARK = {0.0: "o", 1.0: "^"}  # of b
_STYLE: dict[Any, Any] = {"svg.hashsalt": "flotilla", "font.size": 8, "svg.fonttype": "path"}


def rules(results: Mapping[Case, Outcome], conditions: Sequence[tuple[int, bool]], file: Path) -> None:
    """Draw the worst tenth over the accuracy, both in the end: a panel per condition, a mark per (a, b), c = 0."""
    pyplot = _pyplot()
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(2, 3, figsize=(9.6, 5.6))
        for axis, which in zip(axes.flat, conditions, strict=True):
            for (a, b), runs in _by_rule(results, which).items():
                x, y = (100 * fmean(values) for values in zip(*((r.accuracy[-1], r.worst) for r in runs), strict=True))
                axis.plot(x, y, _MARK[b], color=_SHADE[a], markersize=9, markeredgecolor="white")
                axis.annotate(
                    f"a={a:g} b={b:g}", (x, y), xytext=(6, 3), textcoords="offset points", color=_INK, fontsize=7
                )
            axis.set_title(condition(*which), loc="left", fontsize=8, color=_INK)
            _plain(axis)
            axis.margins(0.25)
        for axis in axes[1]:
            axis.set_xlabel("accuracy of the global network, %")
        for axis in axes[:, 0]:
            axis.set_ylabel("worst tenth of the clients, %")
        _save(figure, pyplot, file)


def coefficients(fits: Mapping[tuple[int, bool], Fit], file: Path) -> None:
    """Draw every coefficient with its interval."""
    pyplot = _pyplot()
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(1, len(NAMES), figsize=(9.6, 2.6), sharey=True)
        for axis, name in zip(axes, NAMES, strict=True):
            for y, one in enumerate(fits.values()):
                low, middle, high = (1e3 * side[name] for side in (one.low, one.coefficients, one.high))
                axis.plot([low, high], [y, y], color="#4393c3", linewidth=2)
                axis.plot(middle, y, "o", color="#08306b", markersize=6)
            axis.axvline(0, color="#888888", linewidth=0.8)
            axis.set_title(name, loc="left", fontsize=9, color=_INK)
            axis.set_xlabel("10⁻³ nats per standard deviation")
            _plain(axis)
        axes[0].set_yticks(range(len(fits)), [condition(*which) for which in fits])
        axes[0].invert_yaxis()
        _save(figure, pyplot, file)


def _by_rule(results: Mapping[Case, Outcome], which: tuple[int, bool]) -> dict[tuple[float, float], list[Outcome]]:
    found: dict[tuple[float, float], list[Outcome]] = {}
    for case, one in results.items():
        if (case.correlation, case.noise) == which and not case.lateness:
            found.setdefault((case.data, case.loss), []).append(one)
    return found


def _plain(axis: Any) -> None:
    axis.grid(color="#eeeeee", zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, pyplot: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=160)
    pyplot.close(figure)
