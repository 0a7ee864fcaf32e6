"""What docs/parity.md and the tests of parity have of a method."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from strategies.flower_adapter import FlowerStrategy

TESTS = "tests/parity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a method is held against.

    Attributes:
        owner: the class that the row is of: the method's own, or one that it extends; "" without a row.
        heads: of the table.
        row: of the table.
        notes: what the page says further, of the method or of its settings.
        tests: files that name its class.
    """

    owner: str
    heads: list[str]
    row: list[str]
    notes: list[str]
    tests: list[str]


def held(root: Path, method: type[FlowerStrategy], keys: Collection[str]) -> Held:
    """Find it.

    Args:
        root: the repository.
        method: whose.
        keys: of its own settings.
    """
    text = (root / "docs/parity.md").read_text(encoding="utf-8")
    lines = [_cells(line) for line in text.split("\n") if line.startswith("|")]
    rows = {_plain(name): line for line in lines[2:] for name in line[0].split(", ")}
    classes = [one for one in method.__mro__ if one is not FlowerStrategy and issubclass(one, FlowerStrategy)]
    owner = next((one.__name__ for one in classes if _plain(one.__name__) in rows), "")
    bullets = [" ".join(part.split()) for part in re.findall(r"^- (.*(?:\n  .*)*)", text, re.M)]
    return Held(
        owner=owner,
        heads=lines[0],
        row=rows.get(_plain(owner), []),
        notes=[bullet for bullet in bullets if _about(bullet, owner, keys)],
        tests=[
            f"{TESTS}/{file.name}"
            for file in sorted((root / TESTS).glob("test_*.py"))
            if re.search(rf"\b{method.__name__}\b", file.read_text(encoding="utf-8"))
        ],
    )


def _about(bullet: str, owner: str, keys: Collection[str]) -> bool:
    bold = re.match(r"\*\*(.*?)\*\*", bullet)
    if bold is None:
        return False
    named = re.findall(r"`([\w-]+)`", bullet)
    return any(key in named for key in keys) or (bool(owner) and _plain(bold[1]).startswith(_plain(owner)))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
