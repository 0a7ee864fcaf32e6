"""The style sheet of a page, and the page around its parts: readable on a desktop, a phone and paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from server_app.report.drawing import DARK, LIGHT


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page, complete in itself.

    Args:
        title: of the window.
        parts: of the body, as HTML; empty ones are left out.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Flotilla</title>\n<style>{style()}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def style() -> str:
    """The style sheet of a page."""
    light = "".join(f"--c{n}:{colour};" for n, colour in enumerate(LIGHT))
    dark = "".join(f"--c{n}:{colour};" for n, colour in enumerate(DARK))
    return f"""
:root{{color-scheme:light dark;--page:#fff;--ink:#1b1e23;--muted:#646b75;--line:#e4e7eb;--soft:#f5f6f8;
 --heat:62%;{light}}}
@media(prefers-color-scheme:dark){{:root{{--page:#14171b;--ink:#e8eaed;--muted:#9aa2ad;--line:#2b3037;--soft:#1c2026;
 --heat:48%;{dark}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;padding:2.2rem 1.5rem 4rem;max-width:74rem;background:var(--page);color:var(--ink);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;overflow-wrap:break-word}}
header p,.note,figcaption+p{{margin:.1rem 0 0;color:var(--muted)}} h1{{font-size:1.15rem;margin:0;font-weight:600}}
.said{{font-size:1.45rem;line-height:1.35;margin:1.1rem 0 0;max-width:52rem;text-wrap:pretty}}
h2{{font-size:1.05rem;font-weight:600;margin:2.6rem 0 .8rem;padding-bottom:.35rem;border-bottom:1px solid var(--line)}}
h3{{font-size:.95rem;font-weight:600;margin:0 0 .3rem}}
.error{{border-left:3px solid var(--c1);padding-left:.8rem}}
.facts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.6rem,1fr));gap:.6rem;margin:1.4rem 0 0}}
.facts div{{background:var(--soft);border-radius:.5rem;padding:.55rem .8rem}}
.facts b{{display:block;font-size:1.2rem;font-weight:600;font-variant-numeric:tabular-nums}}
.facts span{{color:var(--muted);font-size:.86rem}}
.wide{{overflow-x:auto}} table{{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.93rem}}
th,td{{text-align:left;vertical-align:top;padding:.28rem 1.3rem .28rem 0;border-bottom:1px solid var(--line)}}
th{{font-weight:500;color:var(--muted)}} .numbers :is(th,td):not(:first-child){{text-align:right}}
.numbers td:not(:first-child){{white-space:nowrap}} .numbers th{{vertical-align:bottom}}
.numbers.words :is(th,td):last-child{{text-align:left;white-space:normal;padding-left:1.3rem;overflow-wrap:anywhere}}
.pairs td:first-child{{color:var(--muted)}} .pairs td{{overflow-wrap:anywhere}}
.pairs thead{{display:none}} :is(th,td):last-child{{padding-right:0}}
details{{margin-top:.9rem}} summary{{cursor:pointer;color:var(--muted)}}
code,pre{{font:.88rem/1.5 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}}
pre{{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);border-radius:.5rem;padding:.7rem .9rem;
 margin:.5rem 0}}
.figures{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:1.7rem 2rem}}
.figures>:only-child{{max-width:34rem}}
.pair{{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:1.2rem 2.4rem;align-items:start}}
.pair>:only-child{{grid-column:1/-1}}
figure{{margin:0;min-width:0}}
figcaption{{font-weight:500;display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline}}
svg{{display:block;width:100%;height:auto;overflow:visible;margin-top:.25rem}}
/* A figure that is wider than a phone is magnified; its letters are not. */
@media(min-width:52rem){{
:is(.pair,.figures:not(:has(>:nth-child(3))),.figures:has(>:nth-child(4):last-child)) svg text
 {{font-size:8px!important}}}}
.figures:has(>:nth-child(4):last-child){{grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr))}}
.pair .numbers{{font-size:.86rem}} .pair .numbers :is(th,td){{padding-right:.75rem}}
.pair .numbers :is(th,td):last-child{{padding-right:0}}
.over *{{fill:transparent;stroke:none}} .over :hover{{fill:var(--ink);fill-opacity:.09}}
.key{{display:inline-flex;flex-wrap:wrap;gap:.1rem .95rem;font-size:.86rem;font-weight:400;color:var(--muted)}}
p.key{{margin:.2rem 0 1rem}}
.key i{{display:inline-block;width:.95em;height:.3em;border-radius:2px;margin:0 .4em .2em 0}}
.key i.dot{{width:.75em;height:.75em;border:1.5px solid var(--muted);border-radius:50%;margin-bottom:-.05em}}
.key i.full{{background:var(--muted);transform:scale(.7)}}
.heat{{width:100%;table-layout:auto;font-size:.84rem;border-collapse:separate;border-spacing:2px}}
.heat :is(td,th){{padding:.12rem .3rem;border:0;text-align:center}}
.heat th:first-child{{text-align:left;padding-left:0;font-weight:400;overflow-wrap:anywhere;color:var(--ink)}}
.heat td{{border-radius:3px;background:color-mix(in srgb,var(--c0) calc(var(--s)*var(--heat)),var(--soft))}}
.heat.thin td{{padding:0;height:1.15rem}}
@media(max-width:52rem){{.pair{{grid-template-columns:minmax(0,1fr)}}}}
@media(max-width:40rem){{body{{padding:1.3rem 1rem 3rem}} .said{{font-size:1.2rem}} h2{{margin-top:2rem}}
 .facts{{grid-template-columns:1fr 1fr}}
 .numbers,.numbers tbody{{display:block}} .numbers thead{{display:none}}
 .numbers tr{{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:0 1.4rem;padding:.5rem 0;
  border-bottom:1px solid var(--line)}}
 .long tr{{grid-template-columns:minmax(0,1fr)}}
 .numbers td,.numbers td:not(:first-child){{display:flex;justify-content:space-between;gap:.6rem;border:0;
  padding:.06rem 0}}
 .numbers td:first-child{{grid-column:1/-1;font-weight:600}} .numbers td:empty{{display:none}}
 .numbers.words td:last-child{{padding-left:0}}
 .numbers td:not(:first-child)::before{{content:attr(data-head);color:var(--muted);text-align:left;font-size:.86rem;
  white-space:normal}}
 .heat{{font-size:.76rem}} .heat :is(td,th){{padding:.1rem .12rem}}}}
@media print{{body{{max-width:none;padding:0}}section{{break-inside:avoid}}}}
"""
