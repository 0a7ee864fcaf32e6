"""The project's modules as syntax trees, and who imports whom."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ANY_NUMBER = frozenset({"Sequential"})  # takes a sequence as its arguments
PACKAGES = (
    "models",
    "protocol",
    "data",
    "strategies",
    "client_app",
    "server_app",
    "flotilla",
    "benchmarks",
    "handbook",
)


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


@dataclass(frozen=True, slots=True)
class Class:
    """A class of the project.

    Attributes:
        name: dotted.
        node: its definition.
        positional: how many positional arguments its construction can take; None where any number.
    """

    name: str
    node: ast.ClassDef
    positional: int | None


class Names:
    """What the names of the project's modules stand for, as far as imports tell.

    Args:
        files: modules by dotted name.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._tables = {module: _table(module, tree(file), files) for module, file in files.items()}
        self._nodes = {
            f"{module}.{node.name}": node
            for module, file in files.items()
            for node in tree(file).body
            if isinstance(node, ast.ClassDef)
        }
        self._classes: dict[str, Class] = {}

    def resolve(self, module: str, name: str) -> str:
        """Full name of what a dotted name means at the top of a module; a name that nothing defines stays."""
        first, _, rest = name.partition(".")
        whole = self._tables[module].get(first, first) + ("." + rest if rest else "")
        owner, _, last = whole.rpartition(".")
        if owner in self._files and self._tables[owner].get(last, whole) != whole:
            return self.resolve(owner, last)  # imported there, too
        return whole

    def find(self, module: str, name: str) -> Class | None:
        """The class of the project that a dotted name means in a module."""
        whole = self.resolve(module, name)
        if whole in self._nodes and whole not in self._classes:
            self._classes[whole] = Class(whole, self._nodes[whole], self._positional(whole))
        return self._classes.get(whole)

    def classes(self) -> list[Class]:
        """Every class at the top of a module."""
        return [
            known
            for name in self._nodes
            if (known := self.find(name.rpartition(".")[0], name.rpartition(".")[2])) is not None
        ]

    def fields(self, name: str) -> list[tuple[str, bool]] | None:
        """Fields of a dataclass, inherited ones first, and whether each is keyword-only; None for other classes."""
        node, module = self._nodes[name], name.rpartition(".")[0]
        marks = [mark for mark in node.decorator_list if _last(_callee(mark)) == "dataclass"]
        if not marks:
            return None
        every = any(isinstance(mark, ast.Call) and _true(mark, "kw_only") for mark in marks)
        found: dict[str, bool] = {}
        for base in reversed(node.bases):
            if (parent := self.find(module, dotted(base))) is not None:
                found |= dict(self.fields(parent.name) or [])
        by_name = every
        for line in node.body:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            kind = ast.unparse(line.annotation)
            if _last(kind) == "KW_ONLY":
                by_name = True
            elif "ClassVar" not in kind and not (isinstance(line.value, ast.Call) and _false(line.value, "init")):
                found[line.target.id] = by_name or (isinstance(line.value, ast.Call) and _true(line.value, "kw_only"))
        return list(found.items())

    def _positional(self, name: str) -> int | None:
        node, module = self._nodes[name], name.rpartition(".")[0]
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and line.name == "__init__":
                arguments = line.args
                return None if arguments.vararg else len(arguments.posonlyargs + arguments.args) - 1
        if (fields := self.fields(name)) is not None:
            return sum(not by_name for _, by_name in fields)
        for base in node.bases:
            if (parent := self.find(module, dotted(base))) is not None:
                return parent.positional
        return None


@dataclass(frozen=True, slots=True)
class Construction:
    """A call that makes an object of a class.

    Attributes:
        place: module and line.
        name: the class, as it is written there.
        positional: its positional arguments; where some are unpacked from a sequence, as many as the class can take.
    """

    place: str
    name: str
    positional: int


def constructions(names: Names, module: str, tree: ast.Module) -> Iterator[Construction]:
    """Constructions in a module: of the project's classes, of what is written like a class, and through `super()`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func) or ast.unparse(node.func)
        known = names.find(module, name)
        if _last(name) in ANY_NUMBER or hasattr(builtins, name):  # Python says how its own are made
            continue
        written = _last(name).lstrip("_")[:1].isupper() and not _last(name).isupper()
        if known is None and not written and name not in ("cls", "type(self)", "super().__init__"):
            continue
        count = len(node.args)
        if known is not None and any(isinstance(argument, ast.Starred) for argument in node.args):
            count = max(count, known.positional or 0)
        yield Construction(f"{module}:{node.lineno}", name, count)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; "" of anything else."""
    if isinstance(node, ast.Subscript):  # Generic[...]
        return dotted(node.value)
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if isinstance(node, ast.Attribute) and inner else ""


def _table(module: str, tree: ast.Module, files: Mapping[str, Path]) -> dict[str, str]:
    """Names that a module imports (anywhere) or defines, and what they are in full."""
    table = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                table[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                table[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    table |= {
        node.name: f"{module}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    return table


def _callee(mark: ast.expr) -> str:
    return dotted(mark.func if isinstance(mark, ast.Call) else mark)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _true(call: ast.Call, key: str) -> bool:
    return any(word.arg == key and ast.unparse(word.value) == "True" for word in call.keywords)


def _false(call: ast.Call, key: str) -> bool:
    return any(word.arg == key and ast.unparse(word.value) == "False" for word in call.keywords)
