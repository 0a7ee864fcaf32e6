"""One figure: axes in our style, drawn by matplotlib as SVG text, with what a pointer over it is told.

Chosen over libraries that draw in the browser: those bring 1 to 4 MB of JavaScript into every file, and a page without
a script opens anywhere, prints, and gives the same bytes for the same run. What hovers is SVG's own `<title>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from io import StringIO
from math import ceil, floor, log10
from typing import Any, NamedTuple

from server_app.report.drawing import GRID, MUTED
from server_app.report.tables import short

WIDTH, HEIGHT = 350.0, 190.0  # points: a third of a desktop's page, the whole of a phone's
FONT = 10.5
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 6.0, 8.0, 20.0
_FEWEST_TICKS = 3
_MOST_COLUMNS = 400  # of what hovers; a screen has no more pixels for it


class Spot(NamedTuple):
    """Where a pointer is told something, in the figure's own coordinates; without y a column over the whole height."""

    x: float
    y: float | None
    text: str


class Word(NamedTuple):
    """Text at a place, in the figure's own coordinates and `right` and `down` points from there.

    Not matplotlib's text, which reads formulas and warns of letters that its font lacks: names are anybody's.
    """

    x: float
    y: float
    text: str
    colour: str = MUTED
    right: float = 0.0
    down: float = 0.0
    anchor: str = "start"


def draw(
    paint: Callable[[Any], Iterable[Spot | Word] | None],
    *,
    height: float = HEIGHT,
    label: str = "",
    rows: bool = False,
) -> str:
    """Draw a figure.

    Args:
        paint: draws into the axes, and says what hovers and what is written.
        height: points.
        label: what the horizontal axis is, if the caption does not say.
        rows: whether the vertical axis has names, and no grid.

    Returns:
        SVG text in placeholder colours; see `server_app.report.drawing.in_page`.
    """
    from matplotlib import rc_context  # a second to import, and only the end of a run needs it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The settings of SVG exist only as rcParams; the context gives back what was there.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flotilla", "font.size": FONT}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        low, left = _BOTTOM + (14 if label else 0), _LEFT + (22 if rows else 0)
        within = (left / WIDTH, low / height, 1 - (left + _RIGHT) / WIDTH, 1 - (low + _TOP) / height)
        axes = figure.add_axes(within)
        if not rows:
            axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.tick_params(length=0, which="both", labelcolor=MUTED, pad=4)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.set_axisbelow(True)
        found = list(paint(axes) or ())
        if label:
            axes.set_xlabel(label, color=MUTED, labelpad=3)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        spots = [one for one in found if isinstance(one, Spot)]
        words = "".join(_written(axes, one, height) for one in found if isinstance(one, Word))
        return _with(text.getvalue(), words + _over(axes, spots, height))


def size_axis(axes: Any, sizes: Sequence[float]) -> None:
    """The horizontal axis of sizes: by the logarithm where they differ much, with a few round numbers below it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    low, high = min(sizes), max(sizes)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if 0 < 3 * low < high:
        axes.set_xscale("log")
        axes.minorticks_off()
        from_, to = (float(end) for end in axes.get_xlim())
        powers = [10.0**n for n in range(floor(log10(from_)), ceil(log10(to)) + 1)]
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
            ticks = [step * power for power in powers for step in steps if from_ <= step * power <= to]
            if len(ticks) >= _FEWEST_TICKS:
                break
        axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))


def _with(svg: str, over: str) -> str:
    end = svg.rindex("</svg>")
    return svg[:end] + over + svg[end:]


def _written(axes: Any, word: Word, height: float) -> str:
    x, y = axes.transData.transform((word.x, word.y))
    look = f'style="font-size: {FONT}px; fill: {word.colour}" text-anchor="{word.anchor}"'
    return f'<text x="{x + word.right:.1f}" y="{height - y + word.down:.1f}" {look}>{escape(word.text)}</text>'


def _over(axes: Any, spots: Sequence[Spot], height: float) -> str:
    """Invisible shapes over the figure that show their title where a pointer is."""
    columns = [spot for spot in spots if spot.y is None]
    columns = columns[:: 1 + len(columns) // _MOST_COLUMNS]
    box = axes.get_window_extent()
    places = [float(axes.transData.transform((spot.x, 0))[0]) for spot in columns]
    shapes = []
    for n, (place, spot) in enumerate(zip(places, columns, strict=True)):
        near = [abs(place - other) for other in places[max(0, n - 1) : n + 2] if other != place]
        half = min(near, default=box.width) / 2
        low, high = max(box.x0 - 6, place - half), min(box.x1 + 6, place + half)
        outline = f"M{low:.1f} {height - box.y1:.0f}h{high - low:.1f}v{box.height:.0f}H{low:.1f}z"
        shapes.append(f'<path d="{outline}">{_title(spot)}</path>')
    for spot in spots:
        if spot.y is not None:
            x, y = axes.transData.transform((spot.x, spot.y))
            shapes.append(f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="9">{_title(spot)}</circle>')
    return f'<g class="over">{"".join(shapes)}</g>' if shapes else ""


def _title(spot: Spot) -> str:
    return f"<title>{escape(spot.text)}</title>"
