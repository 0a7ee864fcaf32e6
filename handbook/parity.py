"""What docs/parity.md and the tests of parity have of a method."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from strategies.flower_adapter import FlowerStrategy

TESTS = "tests/parity"
_CODE = re.compile(r"`([\w-]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a method is held against.

    Attributes:
        owner: whom the row is of: the method by its name or class, or a class that it extends; "" without a row.
        own: whether the row is of the method itself.
        heads: of the table.
        row: of the table.
        notes: what the page says further, of the method, of its settings or of those that its row names.
        tests: files that name it or its class.
    """

    owner: str
    own: bool
    heads: list[str]
    row: list[str]
    notes: list[str]
    tests: list[str]


def held(root: Path, name: str, method: type[FlowerStrategy], keys: Collection[str]) -> Held:
    """Find it.

    Args:
        root: the repository.
        name: of the method.
        method: its class.
        keys: of its own settings.
    """
    text = (root / "docs/parity.md").read_text(encoding="utf-8")
    lines = [_cells(line) for line in text.split("\n") if line.startswith("|")]
    rows = {_plain(one): line for line in lines for one in line[0].split(", ") if _plain(one)}
    classes = [one for one in method.__mro__ if one is not FlowerStrategy and issubclass(one, FlowerStrategy)]
    known = [method.__name__, name, *(one.__name__ for one in classes)]
    owner = next((one for one in known if _plain(one) in rows), "")
    row = rows.get(_plain(owner), [])
    named = {*keys, *_CODE.findall(row[-1] if row else "")}
    bullets = [" ".join(part.split()) for part in re.findall(r"^- (.*(?:\n  .*)*)", text, re.M)]
    return Held(
        owner=owner,
        own=owner in (name, method.__name__),
        heads=lines[0],
        row=row,
        notes=[bullet for bullet in bullets if _about(bullet, owner, named)],
        tests=[
            f"{TESTS}/{file.name}"
            for file in sorted((root / TESTS).glob("test_*.py"))
            if re.search(rf'\b{method.__name__}\b|"{re.escape(name)}"', file.read_text(encoding="utf-8"))
        ],
    )


def _about(bullet: str, owner: str, keys: Collection[str]) -> bool:
    bold = re.match(r"\*\*(.*?)\*\*", bullet)
    if bold is None:
        return False
    named = _CODE.findall(bullet)
    return any(key in named for key in keys) or (bool(owner) and _plain(bold[1]).startswith(_plain(owner)))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
