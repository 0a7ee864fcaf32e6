"""What a recipe says at its top: what is expected of it, where that stands, and where it differs.

A recipe is a file of `recipes/`: settings of a run, or of a sweep, after a comment whose paragraphs begin with
`Expected: `, `Source: ` and `Differs: `.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "recipes"
PARTS = ("Expected", "Source", "Differs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A published setting.

    Attributes:
        file: its name in `recipes/`.
        title: first paragraph of its comment.
        said: the others, by their first word.
        settings: what it sets: of a sweep what all its runs have in common.
        methods: whom it is of.
    """

    file: str
    title: str
    said: Mapping[str, str]
    settings: Mapping[str, Any]
    methods: frozenset[str]


def recipes(root: Path) -> list[Recipe]:
    """All of them, in the order of their names."""
    return [read(file) for file in sorted((root / FOLDER).glob("*.toml"))]


def read(file: Path) -> Recipe:
    """One of them.

    Raises:
        ValueError: it does not say what is expected, or where that stands.
    """
    text = file.read_text(encoding="utf-8")
    told = tomllib.loads(text)
    comment = "\n".join(_comment(text))
    title, *paragraphs = [" ".join(part.split()) for part in comment.split("\n\n")]
    said = {name: rest.strip() for name, _, rest in (part.partition(":") for part in paragraphs)}
    if missing := {"Expected", "Source"} - set(said):
        raise ValueError(f"{file}: its comment has no {', '.join(sorted(missing))}")
    settings = told.get("settings", told)
    of = {settings.get("method"), *told.get("grid", {}).get("method", ())}
    of |= {row.get("method") for row in told.get("rows", {}).values()}
    return Recipe(file=file.name, title=title, said=said, settings=settings, methods=frozenset(of - {None}))


def _comment(text: str) -> list[str]:
    lines = []
    for line in text.split("\n"):
        if not line.startswith("#"):
            break
        lines.append(re.sub(r"^# ?", "", line))
    return lines
