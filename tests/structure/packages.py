"""The project's modules as syntax trees, and who imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "protocol", "data", "strategies", "client_app", "server_app", "flotilla", "benchmarks")


def modules(*roots: str, folder: Path = ROOT) -> dict[str, Path]:
    """Every module of some packages, by dotted name; a package's own file by the package's name."""
    found = {}
    for root in roots:
        for file in sorted((folder / root).rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def tree(file: Path) -> ast.Module:
    """Syntax tree of a file, read once."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imported(tree: ast.AST, known: Mapping[str, object]) -> Iterator[str]:
    """Modules, among the known ones, that a module imports anywhere in it, in functions and for types too.

    `from package import module` is an import of the module, `from package import name` one of the package.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else node.module


def cycles(imports: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of modules each of which reaches all others of its group (strongly connected, two or more)."""
    reached: dict[str, set[str]] = {}
    for module in imports:
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            new = imports[waiting.pop()] - seen
            seen |= new
            waiting.extend(new)
        reached[module] = seen
    groups: list[set[str]] = []
    for module, seen in reached.items():
        if module in seen and not any(module in group for group in groups):
            groups.append({module} | {other for other in seen if module in reached[other]})
    return groups
