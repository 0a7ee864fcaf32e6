"""Move packages below another one: `from models.cost import x` becomes `from flotilla.models.cost import x`.

What is rewritten, and nothing else, so that every line stays where it is:

- import statements of a moved package (`from models import x`, `import models`, `import models.cost as c`);
- in strings, docstrings among them, `package.module` where that module exists ("server_app.app:app", a target of
  `monkeypatch.setattr`, "`models.cost`"), so that a word that merely looks like one stays what it was.

What cannot be rewritten safely is refused by name: `import models.cost` without `as` binds `models`, and a dotted name
that an f-string puts together is known only when it runs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path


class CannotRename(ValueError):
    """Source that would mean something else below another package; its text says where and what to write instead."""


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int  # bytes from the beginning
    end: int
    text: str


class Renamer:
    """Rewrites source for packages that stand below `parent`.

    Args:
        root: folder in which the packages stand now.
        packages: names of the packages that move.
        parent: name of the package that they move into.
    """

    def __init__(self, root: Path, packages: Collection[str], parent: str) -> None:
        self._packages, self._parent = frozenset(packages), parent
        modules = [name for package in packages for name in _modules(root / package, package)]
        alternatives = "|".join(re.escape(name) for name in sorted(modules, key=len, reverse=True))
        self._mention = re.compile(rf"(?<![\w./-])(?=(?:{alternatives})(?!\w|\.(?:py|toml|md)\b))")

    def rewrite(self, source: str, name: str) -> str:
        """Return the source as it stands below the parent.

        Args:
            source: Python source.
            name: what errors call it.

        Raises:
            CannotRename: for what cannot be rewritten safely.
        """
        data = source.encode()
        starts = [0]
        for line in data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        tree = ast.parse(source, name)
        edits = sorted(self._edits(tree, data, starts, name), key=lambda edit: edit.start, reverse=True)
        for edit in edits:
            data = data[: edit.start] + edit.text.encode() + data[edit.end :]
        rewritten = data.decode()
        self._check(ast.parse(rewritten, name), name)
        return rewritten

    def _edits(self, tree: ast.Module, data: bytes, starts: list[int], name: str) -> Iterator[_Edit]:
        f_strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        inside_f_strings = {id(part) for node in f_strings for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level and self._moves(node.module or ""):
                start = starts[node.lineno - 1] + node.col_offset
                yield self._import(start, f"from {node.module}", f"from {self._parent}.{node.module}", data, name)
            elif isinstance(node, ast.Import) and any(self._moves(alias.name) for alias in node.names):
                start = starts[node.lineno - 1] + node.col_offset
                yield self._import(start, *self._plain_import(node, name), data, name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and self._mention.search(node.value):
                if id(node) in inside_f_strings:
                    raise CannotRename(f"{name}:{node.lineno}: a module's name in an f-string: write it without the f")
                start = starts[node.lineno - 1] + node.col_offset
                end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
                yield _Edit(start, end, self._mention.sub(f"{self._parent}.", data[start:end].decode()))

    def _plain_import(self, node: ast.Import, name: str) -> tuple[str, str]:
        """The statement as it is and as it shall be."""
        alias = node.names[0]
        if len(node.names) > 1 or ("." in alias.name and not alias.asname):
            raise CannotRename(f"{name}:{node.lineno}: write `from … import …` for what is imported of {alias.name}")
        if alias.asname:
            return f"import {alias.name} as", f"import {self._parent}.{alias.name} as"
        return f"import {alias.name}", f"from {self._parent} import {alias.name}"

    @staticmethod
    def _import(start: int, old: str, new: str, data: bytes, name: str) -> _Edit:
        end = start + len(old)
        if data[start:end] != old.encode():
            raise CannotRename(f"{name}: {old!r} is not written as the formatter writes it")
        return _Edit(start, end, new)

    def _moves(self, module: str) -> bool:
        return module.partition(".")[0] in self._packages

    def _check(self, tree: ast.Module, name: str) -> None:
        """Make sure that no import of a moved package by its old name is left."""
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if left := [module for module in names if self._moves(module)]:
                raise CannotRename(f"{name}: {left[0]} is still imported by its old name")


def _modules(folder: Path, name: str) -> Iterator[str]:
    """Dotted names of the modules and packages in a package, without its own name, which is a common word."""
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        dotted = ".".join([name, *(part for part in parts if part != "__init__")])
        if dotted != name:
            yield dotted
