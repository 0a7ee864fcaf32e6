"""What pages with figures share: colours, and SVG that becomes part of a page.

Figures are drawn in placeholder colours which are then exchanged for CSS variables, so the page's style decides what
they look like in light and in dark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape

# Okabe and Ito's colours, told apart with any colour vision; darker (light page) and lighter (dark page) variants.
LIGHT = ("#0072b2", "#d55e00", "#008c69", "#b4578f", "#b98500", "#3c9fd6", "#6b6f76", "#a9adb5")
DARK = ("#4aa8e0", "#f0803c", "#2fbf98", "#dd8fbd", "#e6b83c", "#9bd3f5", "#9aa0a8", "#5f656e")
INK, MUTED, GRID = "#010101", "#020202", "#030303"
MARKS = tuple(f"#0404{n:02x}" for n in range(len(LIGHT)))
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", **{mark: f"c{n}" for n, mark in enumerate(MARKS)}}
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)))  # a tier beyond the eighth has a known colour, dashed


def in_page(svg: str, prefix: str) -> str:
    """Make an SVG file part of a page: no prolog, metadata or fonts; ids of its own; colours from the page's style."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font: bold ([\d.]+px)[^;\"]*|font: 700 ([\d.]+px)[^;\"]*", r"font-weight:600;font-size: \1\2", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    return re.sub(r"#0[1-4]\w{4}\b", lambda found: f"var(--{VARIABLES.get(found[0], 'ink')})", svg)


def finite(value: object) -> float | None:
    """The number that a value is; None for infinities, NaN, null and what is no number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def key_of(colours: Mapping[str, str]) -> str:
    """Swatches and names."""
    swatch = '<span><i style="background:var(--{})"></i>{}</span>'
    return "".join(swatch.format(VARIABLES[colour], escape(name)) for name, colour in colours.items())
