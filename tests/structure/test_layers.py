"""The `layers` contracts between rooms, each seen to break when one arrow is turned."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.probes.structure import PACKAGES, ROOT, modules


def lint(folder: Path) -> tuple[int, dict[str, str]]:
    """Exit code of lint-imports on a checkout, and the verdict on every contract by its name's first word."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)$", done.stdout, re.MULTILINE))
    assert verdicts, done.stdout + done.stderr
    return done.returncode, verdicts


def contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [contract for contract in settings if contract["type"] == "layers"]


def floors(contract: dict[str, Any]) -> list[list[str]]:
    """Rooms of a contract, from the top floor down; rooms that need not be there are left out."""
    floors = [re.findall(r"[^\s|:]+", layer) for layer in contract["layers"]]
    return [rooms for floor in floors if (rooms := [room for room in floor if not room.startswith("(")])]


def test_packages_of_several_rooms_have_a_contract() -> None:
    held = {package for contract in contracts() for package in contract["containers"]}
    assert held == set(PACKAGES)


def test_a_turned_arrow_is_seen(tmp_path: Path) -> None:
    """In a copy, a file of every package's lowest floor imports the highest; all those contracts break, no other."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for contract in contracts():
        [package], rooms = contract["containers"], floors(contract)
        low = next(
            file for name, file in modules(package, folder=tmp_path).items() if name.split(".")[1:2] == rooms[-1][:1]
        )
        with low.open("a") as file:
            file.write(f"\n\ndef turned() -> None:\n    import {package}.{rooms[0][0]}\n")
    code, verdicts = lint(tmp_path)
    layered = {contract["name"] for contract in contracts()}
    assert code != 0
    assert {name: "BROKEN" if name in layered else "KEPT" for name in verdicts} == verdicts
    assert layered <= set(verdicts)
