"""What a wheel of the project is: the one package `flotilla`, with everything else below it.

In the repository `models/`, `strategies/`, `client_app/`, … are packages of their own at the top, as Flower's apps have
them. These are no names to put on anybody's path, so in a wheel they stand below `flotilla`, their imports rewritten
(`rename.py`), beside the folder `flotilla/app_folder`: the Flower app that `flotilla run` runs where it is given none.
An editable install leaves everything where it is.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parents[1]))  # the builder loads this file alone
from build_hooks.rename import Renamer

PARENT = "flotilla"
MOVED = ("models", "protocol", "data", "strategies", "client_app", "server_app")
APP_FOLDER = "app_folder"  # flotilla/own_app.py knows it too
_SUFFIXES = {".py", ".toml"}
_ONLY_IN_A_CHECKOUT = {"_checkout.py"}


class WheelHook(BuildHookInterface[Any]):
    """Lays the package out in a temporary folder and hands it to the builder."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is packed."""
        if version == "editable":
            return
        self._folder = tempfile.mkdtemp(prefix="flotilla-wheel-")
        lay_out(Path(self.root), Path(self._folder) / PARENT)
        build_data["force_include"][str(Path(self._folder) / PARENT)] = PARENT

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After the wheel is packed."""
        if version != "editable":
            shutil.rmtree(self._folder)


def lay_out(root: Path, target: Path) -> None:
    """Write the package as the wheel has it.

    Args:
        root: the repository, or an unpacked sdist.
        target: folder of the package `flotilla`; made.

    Raises:
        ValueError: two modules would have one name, or a source cannot be renamed (`rename.CannotRename`).
    """
    renamer = Renamer(root, MOVED, PARENT)
    for source in sources(root, PARENT):
        if source.name not in _ONLY_IN_A_CHECKOUT:
            _place(root, source, target.parent / source.relative_to(root), renamer)
    for package in MOVED:
        if (target / package).exists() or (target / f"{package}.py").exists():
            raise ValueError(f"{PARENT}/{package} is there already: what shall flotilla.{package} be?")
        for source in sources(root, package):
            _place(root, source, target / source.relative_to(root), renamer)
    (target / "py.typed").touch()
    app = target / APP_FOLDER
    app.mkdir()
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (app / "pyproject.toml").write_text(app_toml(project), encoding="utf-8")
    shutil.copy(root / "LICENSE", app)


def sources(root: Path, package: str) -> Iterator[Path]:
    """Find the files of a package that belong into the wheel."""
    for path in sorted((root / package).rglob("*")):
        if path.suffix in _SUFFIXES and "__pycache__" not in path.parts:
            yield path


def _place(root: Path, source: Path, target: Path, renamer: Renamer) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".py":
        text = renamer.rewrite(source.read_text(encoding="utf-8"), str(source.relative_to(root)))
        target.write_text(text, encoding="utf-8")
    else:
        shutil.copy(source, target)


def app_toml(project: dict[str, Any]) -> str:
    """Write the pyproject.toml of the Flower app inside the wheel: components below `flotilla`, the same settings."""
    metadata, app = project["project"], project["tool"]["flwr"]["app"]
    components = {name: f"{PARENT}.{reference}" for name, reference in app["components"].items()}
    tables = {
        "project": {name: metadata[name] for name in ("name", "version", "description", "dependencies")},
        "project.license": metadata["license"],
        "tool.flwr.app": {name: app[name] for name in ("publisher", "fab-format-version", "flwr-version-target")},
        "tool.flwr.app.components": components,
        "tool.flwr.app.config": app["config"],
    }
    lines = ["# Made by build_hooks/wheel.py from the project's pyproject.toml."]
    for table, values in tables.items():  # what these hold looks the same in JSON and TOML
        lines += ["", f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"
