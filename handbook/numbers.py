"""Rows of the documents' tables that are about one method: what programs wrote there, between markers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_OTHERS = {"configuration.md", "models-out.md"}  # of settings; of files for other programs
_PART = re.compile(r"^<!-- (.+):(begin|end) -->$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The rows of a table that are about a method.

    Attributes:
        page: the document, seen from `docs/`.
        title: of the document.
        heading: the nearest one above the table, and what the lines above it say.
        heads: of the columns.
        rows: cells as the document has them.
    """

    page: str
    title: str
    heading: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def rows_of(method: str, docs: Path, known: Collection[str]) -> list[Found]:
    """The rows whose first cell is the method, or the method with something changed ("depthfl, no distillation").

    Args:
        method: its name.
        docs: folder of the documents.
        known: names of all methods, of which a cell is about the longest that it begins with.
    """
    return [
        Found(page=page.name, title=title, heading=heading, heads=lines[0], rows=rows)
        for page in sorted(docs.glob("*.md"))
        if page.name not in _OTHERS
        for title, heading, lines in _tables(page.read_text(encoding="utf-8"))
        if (rows := [line for line in lines[2:] if method in _named(line[0], known)])
    ]


def _named(cell: str, known: Collection[str]) -> set[str]:
    """The methods of a cell: one, one with something changed, or several ("fedavg, exclusive, heterofl")."""
    found = set()
    for part in cell.strip("`* ").split(", "):
        fitting = [one for one in known if part == one or part.startswith(f"{one}-")]
        found |= {max(fitting, key=len)} if fitting else set()
    return found


def _tables(text: str) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Title of the page, heading, and lines of cells of every table that a program wrote."""
    title = heading = said = ""
    inside = False
    table: list[list[str]] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            if inside:
                table.append([cell.strip() for cell in line.strip().strip("|").split(" | ")])
            continue
        if table:
            yield title, ": ".join(part for part in (heading, said) if part), table
            table = []
        if found := _PART.match(line):
            inside = found[2] == "begin"
            said = ""
        elif line.startswith("# "):
            title = line[2:]
        elif line.startswith("#"):
            heading, said = line.lstrip("# "), ""
        elif inside and line.strip():
            said = line.strip().replace("**", "")
