"""The picture of a comparison: one line per method, one mark per tier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.experiments.comparison import TITLES, Finished, by_method, tiers
from benchmarks.experiments.plot import picture, plain

_INK, _FAINT = "#222222", "#c8c8c8"
# Dark is wide. The shades differ in lightness alone, so every eye sees them; and each tier has a lane of its own, the
# widest on top, so that equal accuracies do not hide each other.
_SHADES = ("#08306b", "#2166ac", "#4393c3", "#7fb2d6", "#a8c8e0")
_LANES = 0.5  # share of a method's line over which the lanes are spread


def draw(rows: Sequence[Finished], file: Path) -> None:
    """Write the picture; the format is that of the file's name."""
    partitions = list(dict.fromkeys(row.partition for row in rows))
    methods = list(by_method(rows))
    size = (1.4 + 3.6 * len(partitions), 1.2 + 0.34 * len(methods))
    with picture(file, size, ncols=len(partitions), sharey=True, squeeze=False) as axes:
        for axis, partition in zip(axes[0], partitions, strict=True):
            _panel(axis, [row for row in rows if row.partition == partition], methods)
            axis.set_title(TITLES[partition], loc="left", color=_INK, fontsize=10)
        handles, labels = axes[0][0].get_legend_handles_labels()
        axes[0][0].figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(labels),
            frameon=False,
            title="network of tier",
            handletextpad=0.2,
            columnspacing=1.4,
        )


def _panel(axis: Any, rows: Sequence[Finished], methods: Sequence[str]) -> None:
    names, runs = tiers(rows), by_method(rows)
    lanes = [_LANES * (i / max(1, len(names) - 1) - 0.5) for i in range(len(names))]
    for y, method in enumerate(methods):
        accuracies = [100 * mean(run.last["tiers"][name]["accuracy"] for run in runs[method]) for name in names]
        places = [y + lane for lane in lanes]
        axis.plot(accuracies, places, color=_FAINT, linewidth=1.2, zorder=1)
        for name, accuracy, place, shade in zip(names, accuracies, places, _SHADES, strict=False):
            label = name if y == 0 else None
            axis.plot(
                accuracy,
                place,
                "o",
                markersize=6.5,
                color=shade,
                markeredgecolor="white",
                markeredgewidth=0.6,
                zorder=2,
                label=label,
            )
    axis.set_yticks(range(len(methods)), methods)
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.set_xlabel("test accuracy after the last round, %", color=_INK)
    plain(axis)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
