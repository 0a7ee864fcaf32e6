"""A picture of what every tier holds: a bar for every axis, as long as its units, filled as far as they are kept."""

from __future__ import annotations

from html import escape
from math import log2

from flotilla.networks.inspection import Inspection

_ROW, _BAR, _LONGEST, _GAP = 18, 11, 110, 18  # pixels
_COLOURS = ("#1b4f72", "#2874a6", "#3498db", "#5dade2", "#85c1e9")
_LETTER = 6.6  # pixels of a letter of the font


def svg(inspection: Inspection) -> str:
    """Draw it: a column a tier, a row an axis; the last row is the share of the parameters."""
    axes = {name: axis.size for name, axis in inspection.layout.axes.items() if name in inspection.tiers[0].units}
    names = [*axes, "parameters"]
    left = 16 + int(_LETTER * max(map(len, names)))
    width = left + len(inspection.tiers) * (_LONGEST + 52 + _GAP)
    height = 46 + _ROW * len(names) + 12
    most = max([2, *axes.values()])
    full = max(one.parameters for one in inspection.tiers)
    shapes = [_text(8, 18, f"{inspection.spec.name}: units that every tier keeps", bold=True)]
    for row, name in enumerate(names):
        shapes.append(_text(8, 46 + row * _ROW + _BAR - 1, name))
    for column, one in enumerate(inspection.tiers):
        x, colour = left + column * (_LONGEST + 52 + _GAP), _COLOURS[column % len(_COLOURS)]
        shapes.append(_text(x, 38, f"{one.tier}  {one.rate}", bold=True))
        for row, name in enumerate(names):
            y = 46 + row * _ROW
            if name in axes:  # lengths by the logarithm: axes are of 4 units and of 1,000
                long = _LONGEST * log2(1 + axes[name]) / log2(1 + most)
                share, said = one.units[name] / axes[name], f"{one.units[name]}/{axes[name]}"
            else:
                long, share = float(_LONGEST), one.parameters / full
                said = f"{share:.1%}"
            shapes.append(_bar(x, y, long, "none", colour))
            shapes.append(_bar(x, y, long * share, colour, colour))
            shapes.append(_text(x + long + 5, y + _BAR - 1, said))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *shapes, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" font-family="monospace" font-size="11"{weight}>{escape(words)}</text>'


def _bar(x: float, y: float, width: float, fill: str, stroke: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{fill}" stroke="{stroke}"/>'
