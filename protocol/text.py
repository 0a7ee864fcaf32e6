"""What a peer says, as words of ours may quote it: short, on one line, and nothing that a terminal or a file obeys."""

from __future__ import annotations

from collections.abc import Mapping

MOST_OF_A_PEER = 200  # characters
MOST_OF_A_REASON = 500  # of our own words with what they quote
_MOST_DIGITS = 256  # bits of a whole number that is written out
_FEW = 5  # items of a list that are


def escaped(text: str, most: int = MOST_OF_A_PEER) -> str:
    r"""A text without control characters, surrogates and other characters that are no print, of at most `most`.

    Such a character is written as Python writes it (`\x1b`, `\udc80`), so what comes out is always valid UTF-8, and
    one line. Escaping what is escaped already changes nothing. Nothing beyond the first `most` characters is looked at.
    """
    if text[:most].isprintable():  # as nearly all of them are
        return text if len(text) <= most else text[: most - 3] + "..."
    found, left = [], most
    for character in text[:most]:
        piece = character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        left -= len(piece)
        if left < 0:
            break
        found.append(piece)
    whole = len(text) <= most and left >= 0
    return "".join(found) if whole else "".join(found)[: most - 3] + "..."


def quoted(value: object, most: int = MOST_OF_A_PEER) -> str:
    """A value of a peer's as `repr` would say it, short and escaped; the time and memory it takes are bounded."""
    return escaped(_said(value, most, depth=3), most)


def _said(value: object, most: int, depth: int) -> str:
    if isinstance(value, str):
        return repr(value[: most + 1])
    if isinstance(value, bytes | bytearray | memoryview):
        return repr(bytes(value[: most + 1]))
    if isinstance(value, int) and value.bit_length() > _MOST_DIGITS:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, list | tuple) and depth:
        items = [_said(item, most, depth - 1) for item in value[:_FEW]] + ["..."] * (len(value) > _FEW)
        inside = ", ".join(items)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(items) == 1)})"
    if isinstance(value, Mapping):
        return f"{len(value)} named values"
    return f"a {type(value).__name__}"
