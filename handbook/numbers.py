"""Rows of the documents' tables that are about one method: what programs wrote there, between markers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_OTHERS = {"configuration.md", "models-out.md"}  # of settings; of files for other programs
_PART = re.compile(r"^<!-- (.+):(begin|end) -->$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The rows of a table that are about a method; of several tables that are alike, one after another.

    Attributes:
        page: the document, seen from `docs/`.
        title: of the document.
        heading: the nearest one above the table, and what the lines above it say.
        heads: of the columns; the first is empty where rows of several tables stand below it.
        rows: cells as the document has them; the first says of which table, where there are several.
    """

    page: str
    title: str
    heading: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def rows_of(method: str, docs: Path, known: Collection[str]) -> list[Found]:
    """The rows whose first cell is the method, or the method with something changed ("depthfl, no distillation").

    Tables below one heading with the same columns become one, without the column of methods if it says nothing else.

    Args:
        method: its name.
        docs: folder of the documents.
        known: names of all methods, of which a cell is about the longest that it begins with.
    """
    alike: dict[tuple[str, str, str, tuple[str, ...]], dict[str, list[list[str]]]] = {}
    for page in sorted(docs.glob("*.md")):
        if page.name in _OTHERS:
            continue
        for title, heading, said, lines in _tables(page.read_text(encoding="utf-8")):
            if rows := [line for line in lines[2:] if method in _named(line[0], known)]:
                alike.setdefault((page.name, title, heading, tuple(lines[0])), {}).setdefault(said, []).extend(rows)
    return [_found(method, *where, parts) for where, parts in alike.items()]


def _found(
    method: str, page: str, title: str, heading: str, heads: Sequence[str], parts: Mapping[str, list[list[str]]]
) -> Found:
    if len(parts) == 1:
        [(said, rows)] = parts.items()
    else:
        said = _end_of(list(parts))
        own = all(row[0].strip("`* ") == method for some in parts.values() for row in some)
        heads = ["", *heads[own:]]
        rows = [[part.removesuffix(said), *row[own:]] for part, some in parts.items() for row in some]
    said = said.lstrip(",;: ")
    told = ": ".join(one for one in (heading, said) if one and (one is heading or said.lower() != heading.lower()))
    return Found(page=page, title=title, heading=told, heads=heads, rows=rows)


def _end_of(texts: Sequence[str]) -> str:
    """How all of them end, from a comma, colon or semicolon on."""
    ends = [texts[0][found.start() :] for found in re.finditer(r"[,:;] ", texts[0])]
    return next((end for end in ends if all(text.endswith(end) for text in texts)), "")


def _named(cell: str, known: Collection[str]) -> set[str]:
    """The methods of a cell: one, one with something changed, or several ("fedavg, exclusive, heterofl")."""
    found = set()
    for part in cell.strip("`* ").split(", "):
        fitting = [one for one in known if part == one or part.startswith(f"{one}-")]
        found |= {max(fitting, key=len)} if fitting else set()
    return found


def _tables(text: str) -> Iterator[tuple[str, str, str, list[list[str]]]]:
    """Title of the page, heading, what is said above it, and lines of cells of every table that a program wrote."""
    title = heading = said = ""
    inside = False
    table: list[list[str]] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            if inside:
                table.append([cell.strip() for cell in line.strip().strip("|").split(" | ")])
            continue
        if table:
            yield title, heading, said, table
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
