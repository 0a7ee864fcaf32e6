"""Tables of a page: on a phone a line becomes a block whose cells name their columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from server_app.folder.progress import count
from server_app.report.drawing import finite


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "") -> str:
    """Cells of text.

    Args:
        heads: of the columns.
        lines: one cell a column.
        kind: "numbers": the first column has names and the others numbers; "numbers long": long ones; "numbers long
            words": the last column has words.
    """
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    named = [f' data-head="{escape(text)}"' if kind.startswith("numbers") and text else "" for text in heads]
    cells = [
        "".join(f"<td{named[n] if n < len(named) else ''}>{escape(text)}</td>" for n, text in enumerate(line))
        for line in lines
    ]
    body = "".join(f"<tr>{line}</tr>\n" for line in cells)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values, of mappings one line for every part; "" of nothing."""
    lines = []
    for key, value in values.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        lines += [[f"{key} {part}".strip(), x if isinstance(x, str) else json.dumps(x)] for part, x in inner]
    return table([], lines, "pairs") if lines else ""


def section(title: str, inner: str) -> str:
    """A part of a page under its title; "" of nothing."""
    return f"<section><h2>{escape(title)}</h2>{inner}</section>" if inner else ""


def folded(title: str, inner: str) -> str:
    """What is shown when it is asked for; "" of nothing."""
    return f"<details><summary>{escape(title)}</summary>{inner}</details>" if inner else ""


def plain(value: object, digits: int) -> str:
    """A number with thousands apart, or a dash."""
    return "–" if (number := finite(value)) is None else f"{number:,.{digits}f}"


def megabytes(size: float) -> str:
    """Bytes in the unit that gives two or three digits."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= scale:
            return f"{size / scale:.{max(0, 3 - len(str(int(size / scale))))}f} {unit}"
    return f"{size:.0f} bytes"


def short(number: float) -> str:
    """A count as `count` writes it, without zeros after the point: 10 k."""
    text, _, letter = count(number).partition(" ")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + (f" {letter}" if letter else "")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
