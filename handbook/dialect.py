"""Pages are written for GitHub; MkDocs reads another dialect of Markdown, so some things are said to it differently.

- What stands behind a fence's language (a file's name, `slow`, `fails`) is a title or is left out.
- A list that follows a paragraph without an empty line gets one, else it is part of the paragraph.
- Comments, such as the markers of what programs write, are left out.
- A number of a table is not parted from its deviation: "81.2 ± 0.6" stays on one line.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"^```(\w*) ?(.*)$")
_ITEM = re.compile(r"^ *(?:[-*]|\d+\.) ")
_COMMENT = re.compile(r"^<!--.*-->$")
_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def for_mkdocs(text: str) -> str:
    """A page in the dialect that MkDocs reads."""
    lines: list[str] = []
    fenced = False
    for line in text.split("\n"):
        if found := _FENCE.match(line):
            lines.append("```" if fenced else _fence(found[1], found[2]))
            fenced = not fenced
        elif fenced:
            lines.append(line)
        elif _COMMENT.match(line):
            lines.append("")
        elif line.startswith("|"):
            lines.append(whole_numbers(line))
        else:
            if _ITEM.match(line) and lines and _is_paragraph(lines[-1]):
                lines.append("")
            lines.append(line)
    return "\n".join(lines)


def whole_numbers(cell: str) -> str:
    """Text of a table's cell, or of a line of cells, whose numbers are not broken."""
    return re.sub(r"(?<=\d) ([±/]) (?=[\d–])", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", cell)


def _fence(language: str, told: str) -> str:
    return f'``` {{ .{language} title="{told}" }}' if "." in told else f"```{language}"


def _is_paragraph(line: str) -> bool:
    return bool(line.strip()) and not _ITEM.match(line) and not line.startswith((" ", "#", "|"))


def links(text: str) -> list[str]:
    """Files that a page links to, as it writes them."""
    return [found[2] for found in _LINK.finditer(text)]


def moved(text: str, prefix: str) -> str:
    """Text of a page that now stands in another folder: its links with a prefix."""
    return _LINK.sub(lambda found: f"{found[1]}{prefix}{found[2]}{found[3]}", text)
