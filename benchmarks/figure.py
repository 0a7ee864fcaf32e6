"""The picture of a comparison: one line per method, one letter per tier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.comparison import TITLES, Finished, by_method, tiers

_INK, _FAINT = "#222222", "#c8c8c8"
# Dark is wide. The letters carry the meaning; the shades differ in lightness alone, so every eye sees them.
_SHADES = ("#08306b", "#2166ac", "#4393c3", "#7fb2d6", "#a8c8e0")


def draw(rows: Sequence[Finished], file: Path) -> None:
    """Write the picture; the format is that of the file's name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    partitions = list(dict.fromkeys(row.partition for row in rows))
    methods = list(by_method(rows))
    settings: dict[Any, Any] = {"svg.hashsalt": "flotilla", "font.size": 9, "svg.fonttype": "path"}
    with pyplot.rc_context(settings):
        height = 0.9 + 0.34 * len(methods)
        figure, axes = pyplot.subplots(
            1, len(partitions), figsize=(4.6 * len(partitions), height), sharey=True, squeeze=False
        )
        for axis, partition in zip(axes[0], partitions, strict=True):
            _panel(axis, [row for row in rows if row.partition == partition], methods)
            axis.set_title(TITLES[partition], loc="left", color=_INK, fontsize=10)
        figure.tight_layout(w_pad=2.0)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=160)
        pyplot.close(figure)


def _panel(axis: Any, rows: Sequence[Finished], methods: Sequence[str]) -> None:
    names, runs = tiers(rows), by_method(rows)
    for y, method in enumerate(methods):
        accuracies = [100 * mean(run.last["tiers"][name]["accuracy"] for run in runs[method]) for name in names]
        axis.plot(
            [min(accuracies), max(accuracies)], [y, y], color=_FAINT, linewidth=2, zorder=1, solid_capstyle="round"
        )
        for name, accuracy, shade in reversed(list(zip(names, accuracies, _SHADES, strict=False))):
            axis.plot(
                accuracy, y, "o", markersize=11, color=shade, zorder=2, markeredgecolor="white", markeredgewidth=0.8
            )
            dark = _SHADES.index(shade) < 3
            axis.text(
                accuracy,
                y,
                name,
                ha="center",
                va="center_baseline",
                fontsize=7.5,
                zorder=3,
                color="white" if dark else _INK,
            )
    axis.set_yticks(range(len(methods)), methods)
    axis.invert_yaxis()
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.set_xlabel("test accuracy of each tier's network after the last round, %", color=_INK)
    axis.grid(axis="x", color="#eeeeee", zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
