"""Documents with parts that programs write, between markers: `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results.md"


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
