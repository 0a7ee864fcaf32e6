"""A picture of what every tier holds of a network: a bar for every axis and every cost, filled as far as tiers reach.

Axes of as many units, of which tiers keep as many, are one bar, so that a network of a thousand layers is one picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from server_app.report.drawing import GRID, INK, LIGHT, MARKS, MUTED

_WIDTH, _ROW, _BAR = 350, 27, 8  # points: as wide as the other figures of a report
_MOST_AXES = 12  # bars
_NAME = 30  # letters
_SEVERAL = (("stages", "stages"), ("blocks", "residual blocks"), ("nets", "nets side by side"))
COSTS = {
    "parameters": "parameters",
    "macs": "multiply-accumulates",
    "bytes": "bytes one way",
    "memory": "memory to train",
}
_LOOKS = {INK: "#1b1e23", MUTED: "#646b75", GRID: "#e4e7eb", **dict(zip(MARKS, LIGHT, strict=True))}

Row = tuple[str, dict[str, float], dict[str, str]]  # name; by tier the share, and what is told of it


def picture(told: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    """Draw it, in placeholder colours; see `server_app.report.drawing.in_page`, or `standalone`.

    Args:
        told: as `server_app.inspection.inspected` gives it.
        colours: of the tiers.
    """
    rows = [*_axes(told), *_several(told), *_costs(told)]
    shapes = [shape for n, row in enumerate(rows) for shape in _drawn(row, n * _ROW, colours)]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_ROW * len(rows)}">{"".join(shapes)}</svg>'


def standalone(told: Mapping[str, Any]) -> str:
    """The picture as a file of its own, with a title and a key."""
    colours = tier_marks(told["tiers"])
    inner, bars = picture(told, colours), _ROW * (len(list(_axes(told))) + len(list(_several(told))) + len(COSTS))
    key, x = [], 8.0
    for name, colour in colours.items():
        label = f"{name} ({told['tiers'][name]['rate']})"
        key.append(f'<rect x="{x:.0f}" y="27" width="11" height="6" fill="{colour}"/>')
        key.append(_text(x + 15, 33, label, MUTED))
        x += 27 + 6.2 * len(label)
    width, height = max(_WIDTH + 16, int(x)), bars + 52
    size = f'viewBox="0 0 {width} {height}" width="{2 * width}" height="{2 * height}"'
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(8, 16, f"{told['name']}: what every tier holds", INK),
        *key,
        f'<g transform="translate(8 44)">{inner[inner.index(">") + 1 : -len("</svg>")]}</g>',
        "</svg>\n",
    ]
    whole = "\n".join(body)
    for placeholder, colour in _LOOKS.items():
        whole = whole.replace(placeholder, colour)
    return whole


def tier_marks(tiers: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Colours of tiers that nothing else in a page has given any."""
    return {name: MARKS[n % len(MARKS)] for n, name in enumerate(tiers)}


def _axes(told: Mapping[str, Any]) -> Iterator[Row]:
    """Axes that are alike in size and in what tiers keep are one row; beyond some of them the rest is a table's."""
    tiers = told["tiers"]
    groups: dict[tuple[int, ...], list[str]] = {}
    for n, axis in enumerate(told["axes"]):
        groups.setdefault((axis["size"], *(one["units"][n] for one in tiers.values())), []).append(axis["name"])
    for (size, *units), names in list(groups.items())[:_MOST_AXES]:
        kept = dict(zip(tiers, units, strict=True))
        name = _short(names[0]) + (f" and {len(names) - 1} like it" if len(names) > 1 else "")
        yield name, {one: n / size for one, n in kept.items()}, {one: f"{n:,}" for one, n in kept.items()}


def _several(told: Mapping[str, Any]) -> Iterator[Row]:
    """Stages, residual blocks and nets, where tiers have some of them only."""
    for key, name in _SEVERAL:
        found = {tier: one[key] for tier, one in told["tiers"].items() if key in one}
        if any(kept < all_ for kept, all_ in found.values()):
            yield name, {one: n / of for one, (n, of) in found.items()}, {one: f"{n}" for one, (n, _) in found.items()}


def _costs(told: Mapping[str, Any]) -> Iterator[Row]:
    for key, name in COSTS.items():
        full = max(told["full"][key], 1)
        shares = {tier: one[key] / full for tier, one in told["tiers"].items()}
        yield f"{name} (%)", shares, {one: _percent(share) for one, share in shares.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f}"


def _drawn(row: Row, top: float, colours: Mapping[str, str]) -> Iterator[str]:
    name, shares, said = row
    yield _text(0, top + 10, name, INK)
    yield _text(_WIDTH, top + 10, " · ".join(said.values()) if len(said) <= 6 else "", MUTED, "end")
    yield _rect(0, top + 14, _WIDTH, GRID)
    for tier in sorted(shares, key=lambda one: -shares[one]):  # the larger ones show beyond the smaller ones
        yield _rect(0, top + 14, _WIDTH * min(shares[tier], 1.0), colours[tier])
    lines = "\n".join([name, *(f"{tier}: {said[tier]} ({shares[tier]:.1%})" for tier in shares)])
    hover = f"<title>{escape(lines)}</title>"
    yield f'<g class="over"><path d="M0 {top:.0f}h{_WIDTH}v{_ROW - 2}h-{_WIDTH}z" fill="transparent">{hover}</path></g>'


def _rect(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_BAR}" rx="2" style="fill: {colour}"/>'


def _text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    look = f'style="font-size: 10.5px; fill: {colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(words)}</text>' if words else ""


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME // 3]}…{name[-2 * _NAME // 3 :]}"
