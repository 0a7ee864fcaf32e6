"""What all plots share: one style, files that are the same for the same numbers, and no frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STYLE: dict[Any, Any] = {"svg.hashsalt": "flotilla", "svg.fonttype": "path"}


@contextmanager
def picture(file: Path, size: tuple[float, float], *, font: float = 9, **panels: Any) -> Iterator[Any]:
    """Give the axes to draw on, and write the file in the end; its format is that of its name.

    Args:
        file: to write.
        size: width and height, inches.
        font: size, points.
        panels: for `pyplot.subplots`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({**_STYLE, "font.size": font}):
        figure, axes = pyplot.subplots(figsize=size, layout="constrained", **panels)
        yield axes
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=160)
        pyplot.close(figure)


def plain(axis: Any) -> None:
    """A light grid behind, no frame above and to the right."""
    axis.grid(color="#eeeeee", zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
