"""What is written from the settings: the defaults in pyproject.toml, the tables in docs/configuration.md.

Both stand between markers, `… NAME:begin …` and `… NAME:end …`, each alone on its line; what is around them is written
by hand. The tables' names are the titles of the sections.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from models.settings import Scalar
from server_app.config.catalogue import Key, advanced, keys

ADVANCED_TITLE = "Set in Python only"


def write(root: Path) -> list[Path]:
    """Bring both files of a checkout up to date.

    Args:
        root: folder of pyproject.toml.

    Returns:
        Those that changed.

    Raises:
        ValueError: markers are missing.
    """
    changed = []
    for path, text in current(root).items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def current(root: Path) -> dict[Path, str]:
    """What both files have to say.

    Raises:
        ValueError: markers are missing.
    """
    project, document = root / "pyproject.toml", root / "docs" / "configuration.md"
    tables = document.read_text(encoding="utf-8")
    for title, members in _by_section(keys()):
        tables = _between(tables, title, f"\n{table(members)}\n")
    tables = _between(tables, ADVANCED_TITLE, f"\n{advanced_table(advanced())}\n")
    return {project: _between(project.read_text(encoding="utf-8"), "defaults", block(keys())), document: tables}


def block(members: Sequence[Key]) -> str:
    """Defaults as TOML, a comment over each section."""
    parts = []
    for title, some in _by_section(members):
        parts.append("\n".join([f"# {title}", *(f"{key.name} = {_toml(key.default)}" for key in some)]))
    return "\n".join(parts)


def table(members: Iterable[Key]) -> str:
    """Keys as a table."""
    rows = [(f"`{key.name}`", f"`{_shown(key.default)}`", _allowed(key), _meaning(key)) for key in members]
    return _markdown(("key", "default", "allowed", "meaning"), rows)


def advanced_table(members: Iterable[Key]) -> str:
    """Settings that are no keys, as a table."""
    rows = [
        (f"`{key.name}`", f"`{key.in_python}`", f"`{_shown(key.default)}`", _allowed(key), _meaning(key))
        for key in members
    ]
    return _markdown(("setting", "in Python", "default", "allowed", "meaning"), rows)


def _by_section(members: Sequence[Key]) -> list[tuple[str, list[Key]]]:
    return [(title, list(some)) for title, some in groupby(members, lambda key: key.section)]


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shown(value: Scalar) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value)


def _toml(value: Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)


def _allowed(key: Key) -> str:
    if key.type is bool:
        return "true, false"
    if key.names:
        return ", ".join(f"`{name}`" for name in key.names) + (f", or {key.more}" if key.more else "")
    return key.allowed or ("any text" if key.type is str else "any whole number")


def _meaning(key: Key) -> str:
    return key.words + (f" (with `{key.read_by}`)" if key.read_by else "")


def _between(text: str, name: str, content: str) -> str:
    """Replace what stands between the lines with the markers of a part."""
    lines = text.split("\n")
    begins = [i for i, line in enumerate(lines) if f" {name}:begin" in line]
    ends = [i for i, line in enumerate(lines) if f" {name}:end" in line]
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise ValueError(f"the markers {name}:begin and {name}:end are needed once each, in this order")
    return "\n".join([*lines[: begins[0] + 1], content, *lines[ends[0] :]])
