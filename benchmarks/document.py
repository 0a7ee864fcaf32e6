"""Tables as text or Markdown, and documents with parts that programs write, between `<!-- NAME:begin -->` and `end`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = DOCS / "results.md"

Say = Callable[[str], None]  # where a line about what goes on is said


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Lay out cells in columns: with aligned spaces, or as Markdown."""
    if markdown:
        rule = ["---" for _ in heads]
        return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rule, *lines])
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    rule = ["-" * width for width in widths]
    shown = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in [heads, rule, *lines]
    ]
    return "\n".join(line.rstrip() for line in shown)


def replace_part(document: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a part.

    Raises:
        ValueError: the document does not have both markers once, in order.
    """
    content = document.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise ValueError(f"{document} needs the markers {begin} and {end} once each, in this order")
    before, _, rest = content.partition(begin)
    document.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
