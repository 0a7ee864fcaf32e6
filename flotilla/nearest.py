"""The names that a mistyped one may stand for."""

from __future__ import annotations

from collections.abc import Collection
from difflib import SequenceMatcher

_LIKE = 0.5  # share of letters in common, in order, from which on a name is worth showing


def nearest(word: str, names: Collection[str], most: int = 3) -> list[str]:
    """List the names that are most like a word, the likest first; none that has little to do with it."""

    def likeness(name: str) -> float:
        parts = name.split("-") if "-" not in word else []  # a word alone may be one of a name's words
        whole = _ratio(word, name) + (0.5 if word and word.lower() in name else 0)
        return max(whole, *(0.9 * _ratio(word, part) for part in parts), 0.0)

    found = sorted(((likeness(name), name) for name in names), key=lambda pair: (-pair[0], pair[1]))
    return [name for like, name in found[:most] if like >= _LIKE]


def _ratio(word: str, name: str) -> float:
    return SequenceMatcher(None, word.lower(), name).ratio()


def either(names: Collection[str]) -> str:
    """Write names as a choice: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
