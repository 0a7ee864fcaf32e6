"""What pages with figures share: colours, SVG that becomes part of a page, and the style sheet.

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
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    return re.sub(r"#0[1-4]\w{4}\b", lambda found: f"var(--{VARIABLES.get(found[0], 'ink')})", svg)


def finite(value: object) -> float | None:
    """The number that a value is; None for infinities, NaN, null and what is no number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def key_of(colours: Mapping[str, str]) -> str:
    """Swatches and names."""
    swatch = '<span><i style="background:var(--{})"></i>{}</span>'
    return "".join(swatch.format(VARIABLES[colour], escape(name)) for name, colour in colours.items())


def style() -> str:
    """The style sheet of a page."""
    light = "".join(f"--c{n}:{colour};" for n, colour in enumerate(LIGHT))
    dark = "".join(f"--c{n}:{colour};" for n, colour in enumerate(DARK))
    return f"""
:root{{color-scheme:light dark;--page:#fff;--ink:#1b1e23;--muted:#646b75;--line:#e4e7eb;{light}}}
@media(prefers-color-scheme:dark){{:root{{--page:#14171b;--ink:#e8eaed;--muted:#9aa2ad;--line:#2b3037;{dark}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;padding:2.2rem 1.5rem 4rem;max-width:74rem;background:var(--page);color:var(--ink);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif}}
header p,.wide+p{{margin:.1rem 0 0;color:var(--muted)}} h1{{font-size:1.55rem;margin:0;font-weight:600}}
h2{{font-size:1.05rem;font-weight:600;margin:2.4rem 0 .7rem;padding-bottom:.35rem;border-bottom:1px solid var(--line)}}
.error{{border-left:3px solid var(--c1);padding-left:.8rem}}
.wide{{overflow-x:auto}} table{{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.93rem}}
th,td{{text-align:left;vertical-align:top;padding:.28rem 1.6rem .28rem 0;border-bottom:1px solid var(--line)}}
th{{font-weight:500;color:var(--muted)}} .numbers :is(th,td):not(:first-child){{text-align:right;white-space:nowrap}}
.pairs td:first-child{{color:var(--muted);white-space:nowrap}} .pairs td{{overflow-wrap:anywhere}}
.pairs thead{{display:none}} :is(th,td):last-child{{padding-right:0}}
details{{margin-top:.8rem}} summary{{cursor:pointer;color:var(--muted)}}
.figures{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:1.6rem 2.2rem}}
figure{{margin:0}} figcaption{{font-weight:500;display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline}}
svg{{display:block;width:100%;height:auto;overflow:visible}}
.key{{display:inline-flex;flex-wrap:wrap;gap:.1rem .95rem;font-size:.86rem;font-weight:400;color:var(--muted)}}
p.key{{margin:.2rem 0 1rem}}
.key i{{display:inline-block;width:.95em;height:.3em;border-radius:2px;margin:0 .4em .2em 0}}
.key i.dot{{width:.75em;height:.75em;border:1.5px solid var(--muted);border-radius:50%;margin-bottom:-.05em}}
.key i.full{{background:var(--muted);transform:scale(.7)}}
@media print{{body{{max-width:none;padding:0}}section{{break-inside:avoid}}}}
"""
