"""What a class or a client is called: the same on every device, however its file has it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from math import isfinite

_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0*")  # as tables of numbers write a whole one


def plain(text: str) -> str:
    """A name without white space around it, in Unicode's composed form: file systems and editors differ in it."""
    return unicodedata.normalize("NFC", text).strip()


def name_of(value: object) -> str:
    """The name of a number or a text: whole numbers without a point, truth values as Python writes them.

    Raises:
        ValueError: a number that is not finite.
    """
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{value} is no name")
        return str(int(value)) if value.is_integer() else str(value)
    text = plain(str(value))
    if text.lower() in ("true", "false"):
        return text.capitalize()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def names_of(values: Iterable[object], where: str) -> list[str]:
    """The names of some values.

    Args:
        values: one after the other.
        where: says whose they are, for errors.

    Raises:
        ValueError: one has none; names the row, from 0.
    """
    found = list[str]()
    for row, value in enumerate(values):
        try:
            found.append(name_of(value))
        except ValueError as error:
            raise ValueError(f"{where}, row {row}: {error}") from None
    return found
