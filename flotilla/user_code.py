"""A user's own code that goes with a run: packages that the configuration names by import path.

    flotilla run --with ./my_lab -c 'method="my_lab.fedprox:FedProx"'

or a folder whose pyproject.toml says what differs from Flotilla's own app, and nothing else:

    [tool.flotilla.config]
    method = "my_lab.fedprox:FedProx"

The packages are put into the bundle that Flower ships. In this process and in the workers of the local engine they are
found under their own names, and nothing beside them is.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

Value = int | float | bool | str

# What Flower puts into a bundle; files of other kinds are left out.
_KINDS = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"}
_NO_DATA = {".pyc", ".pyi", ".typed"}  # nobody reads them at run time
# Folders of a user's that are no code of theirs: never, and only beside packages.
_NEVER = {"__pycache__", "node_modules", "site-packages", "venv"}
_NOT_BESIDE = {"build", "dist", "docs", "test", "tests"}
_NO_MODULES = {"conftest.py", "setup.py"}
_OF_PROJECTS = ("pyproject.toml", "setup.py", "setup.cfg")
_NAMED = 5  # files that the warning names


class UserCodeError(ValueError):
    """A folder that cannot go with a run; one line."""


@dataclass(frozen=True, slots=True)
class UserCode:
    """What goes with a run beside the app.

    Attributes:
        packages: import name → folder, or file of a module.
        keys: settings that the app's pyproject.toml does not declare, as options of foreign methods are.
    """

    packages: Mapping[str, Path] = field(default_factory=dict)
    keys: Mapping[str, Value] = field(default_factory=dict)

    def files(self) -> dict[str, Path]:
        """Files by their place in the bundle."""
        found: dict[str, Path] = {}
        for name, path in self.packages.items():
            if path.is_file():
                found[path.name] = path
                continue
            inside = (file for file in _files(path) if file.suffix in _KINDS)
            found |= {f"{name}/{file.relative_to(path).as_posix()}": file for file in inside}
        return found

    def warning(self) -> str:
        """One line that counts and names the files of packages that a bundle cannot carry; "" where there is none."""
        folders = {name: path for name, path in self.packages.items() if path.is_dir()}
        left = [
            f"{name}/{file.relative_to(path).as_posix()}"
            for name, path in folders.items()
            for file in _files(path)
            if file.suffix not in _KINDS | _NO_DATA
        ]
        if not left:
            return ""
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        count = "1 file does" if len(left) == 1 else f"{len(left)} files do"
        kinds = ", ".join(sorted(_KINDS))
        return f"{count} not go along in Flower's bundle, which takes {kinds}: {', '.join(left[:_NAMED])}{more}"

    def added_to(self, project: dict[str, Any]) -> dict[str, Any]:
        """A pyproject.toml that declares these keys, and whose bundle has these files."""
        flower = project["tool"]["flwr"]["app"]
        flower.setdefault("config", {}).update(self.keys)
        if "fab-include" in flower:
            folders = [f"/{name}/**" if path.is_dir() else f"/{path.name}" for name, path in self.packages.items()]
            flower["fab-include"] = [*flower["fab-include"], *folders]
        return project


@dataclass(frozen=True, slots=True)
class Extension:
    """A folder that says what differs from Flotilla's own app.

    Attributes:
        config: settings in place of the defaults.
        packages: what goes with its runs.
    """

    config: Mapping[str, Any]
    packages: Sequence[Path]


def extension_of(folder: Path) -> Extension | None:
    """Read `[tool.flotilla]` of a folder's pyproject.toml; None where it is an app of its own, or nothing of the kind.

    Raises:
        UserCodeError: the table says something else.
    """
    try:
        tool = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):
        return None
    table = tool.get("flotilla")
    if not isinstance(table, dict) or "app" in tool.get("flwr", {}):
        return None
    config, names = table.get("config", {}), table.get("packages")
    if not isinstance(config, dict) or not isinstance(names, list | None) or set(table) - {"config", "packages"}:
        raise UserCodeError(f"{folder}/pyproject.toml: [tool.flotilla] has packages (a list) and config (a table)")
    packages = [folder / str(name) for name in names] if names is not None else _inside(folder) or _modules(folder)
    return Extension(config, packages)


def packages_of(paths: Iterable[Path], app_dir: Path) -> dict[str, Path]:
    """Find what is to go with a run: each path is a package, a module, or a folder of packages.

    Args:
        paths: as the user gave them. A folder without `__init__.py` that has no modules, or a file of a project's
            such as pyproject.toml or setup.py, is a folder of packages if there are any in it.
        app_dir: of the app, whose own packages keep their names.

    Raises:
        UserCodeError: nothing is there, or a name that cannot be used: what Flotilla and its libraries import by that
            name would be the user's.
    """
    found: dict[str, Path] = {}
    for given in paths:
        if not (several := _meant(_named(given))):
            raise UserCodeError(f"{given}: allowed is a folder with Python files, or one such file")
        for one in several:
            name = one.stem if one.is_file() else one.name
            if not name.isidentifier() or name in sys.stdlib_module_names or name == "flotilla":
                raise UserCodeError(f"{one}: allowed is a name that can be imported and is not Python's or Flotilla's")
            if (app_dir / name).is_dir() or found.get(name, one).resolve() != one.resolve():
                raise UserCodeError(f"{one}: there is another package named {name} in the app or beside it")
            if where := _installed(name, one):
                raise UserCodeError(f"{one}: allowed is a name that nothing else has; {name} is installed in {where}")
            found[name] = one
    return found


def _installed(name: str, one: Path) -> str:
    """Where another module or package of this name can be imported from; "" where nothing is, or it is this one.

    The working directory is passed over: `python -m` puts it on the path, and nothing is installed there.
    """
    path = [entry for entry in sys.path if entry and Path(entry).resolve() != Path.cwd()]
    own = {one.resolve(), (one / "__init__.py").resolve()}
    for finder in sys.meta_path:
        if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
            continue
        spec = PathFinder.find_spec(name, path) if finder == PathFinder else finder.find_spec(name, None)
        if spec is None:
            continue
        places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
        return "" if own & {Path(place).resolve() for place in places} else places[0] if places else "Python itself"
    return ""


def _named(given: Path) -> Path:
    """An absolute path whose last part is what the user calls it: a link is imported by its own name."""
    path = given.expanduser().absolute()
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _meant(path: Path) -> list[Path]:
    """What a path stands for: a module, a package, or the packages in a folder, such as a project's."""
    if path.is_file():
        return [path] if path.suffix == ".py" else []
    if not path.is_dir():
        return []
    project = not _modules(path) or any((path / name).is_file() for name in _OF_PROJECTS)
    inside = _inside(path) if project and not (path / "__init__.py").is_file() else []
    return inside or ([path] if any(path.glob("*.py")) else [])


def _inside(folder: Path) -> list[Path]:
    """The packages in a folder, and those in a `src` of it that is no package itself."""
    inside = (path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.isidentifier())
    own = (path for path in inside if _is_own(path) and path.name not in _NOT_BESIDE)
    found: list[Path] = []
    for path in own:
        if path.name == "src" and not any(path.glob("*.py")):
            found += _inside(path)
        elif any(file.suffix == ".py" for file in _files(path)):
            found.append(path)
    return found


def _modules(folder: Path) -> list[Path]:
    """The modules of a folder that has no packages; those of its tests and its set-up are none."""
    found = (path for path in sorted(folder.glob("*.py")) if path.is_file() and path.stem.isidentifier())
    return [path for path in found if path.name not in _NO_MODULES and not path.name.startswith("test_")]


def _files(package: Path) -> list[Path]:
    """The files of a package, without what is hidden and what is no code of the user's."""
    found: list[Path] = []
    passed: dict[str, tuple[Path, ...]] = {str(package): (package.resolve(),)}  # real folders on the way to each
    for place, folders, names in os.walk(package, followlinks=True):
        way = passed.pop(place)
        real = {name: Path(place, name).resolve() for name in folders if _is_own(Path(place, name))}
        # A link to what it lies in would be walked without end.
        folders[:] = [name for name in real if not any(one.is_relative_to(real[name]) for one in way)]
        passed |= {os.path.join(place, name): (*way, real[name]) for name in folders}
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if file.is_file())


def _is_own(folder: Path) -> bool:
    """Whether a folder can be the user's own code: neither hidden nor an environment nor somebody else's packages."""
    return not folder.name.startswith(".") and folder.name not in _NEVER and not (folder / "pyvenv.cfg").exists()


class _Finder(MetaPathFinder):
    """Finds these packages, before any installed one of the same name, as a process that unpacked the bundle does.

    Attributes:
        user_packages: what it finds; `models.registry` says it where an import path leads nowhere.
    """

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self.user_packages = dict(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = self.user_packages.get(fullname)
        return None if place is None else PathFinder.find_spec(fullname, [str(place.parent)], target)


def make_importable(packages: Mapping[str, Path]) -> None:
    """Let this process import packages from where they are; those of an earlier call are found no longer."""
    for finder in [finder for finder in sys.meta_path if isinstance(finder, _Finder)]:
        sys.meta_path.remove(finder)
    if packages:
        sys.meta_path.insert(0, _Finder(packages))
