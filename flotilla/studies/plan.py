"""A sweep's file: which runs it stands for.

    [settings]                 # of every run
    dataset = "digits"

    [grid]                     # every combination of these
    method = ["heterofl", "fedrolex"]
    seed = [1, 2, 3]

    [rows."no Scaler"]         # or rows by name, each with settings of its own, times the grid
    scaler = "off"

A run's name comes from its row and from the settings of the grid; its folder's also from all its settings, so that a
run whose settings were changed is another one.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from flotilla.settings import SettingsError, Value, flatten

SEED = "seed"
_PARTS = ("settings", "grid", "rows")
OURS = ("run-dir", "resume", "client-state")  # what a sweep says of its runs itself


@dataclass(frozen=True, kw_only=True, eq=False)  # each is itself
class Cell:
    """One run of a sweep.

    Attributes:
        row: what it is compared as: the same for all seeds.
        seed: of the run, where the grid has it.
        keys: the settings that make it.
    """

    row: str
    seed: Value | None
    keys: Mapping[str, Value]

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        told = json.dumps(dict(self.keys), sort_keys=True).encode()
        shown = self.row if self.seed is None else f"{self.row}-{SEED}-{self.seed}"
        readable = re.sub(r"[^\w.-]+", "_", shown)[:60]
        return f"{readable}-{sha256(told).hexdigest()[:8]}"

    @property
    def shown(self) -> str:
        """What a person reads."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"


def read_plan(file: Path) -> list[Cell]:
    """The runs that a file stands for, in its order; the seeds of a row together.

    Raises:
        SettingsError: the file cannot be read, or says something that a sweep does not have.
    """
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read {file}: {error}") from None
    if unknown := [name for name in told if name not in _PARTS or not isinstance(told[name], dict)]:
        raise SettingsError(f"{file}: {unknown[0]}: allowed are the tables [settings], [grid] and [rows.NAME]")
    common, grid = flatten(told.get("settings", {})), grid_of(file, told.get("grid", {}))
    rows = {}
    for name, keys in told.get("rows", {}).items():
        if not isinstance(keys, dict):
            raise SettingsError(f"{file}: [rows] {name} = {keys!r}: allowed are tables [rows.NAME]")
        rows[name] = flatten(keys)
    if not grid and not rows:
        raise SettingsError(f"{file}: allowed is at least one list in [grid], or one table [rows.NAME]")
    _once(file, common, grid, rows)
    cells = []
    for name, keys in (rows or {"": {}}).items():
        for values in product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            seed = chosen.get(SEED)
            varied = {key: value for key, value in chosen.items() if key != SEED}
            cells.append(Cell(row=_label(name, varied), seed=seed, keys={**common, **keys, **chosen}))
    return cells


def grid_of(file: Path, told: Mapping[str, Any]) -> dict[str, list[Value]]:
    """The lists of a file's table [grid]; that of seeds is last.

    Raises:
        SettingsError: one is no list of values, or has one of them twice.
    """
    grid = {}
    for key, values in told.items():
        if not isinstance(values, list) or not values or any(isinstance(value, dict) for value in values):
            raise SettingsError(f"{file}: [grid] {key} = {values!r}: allowed is a list of values, such as [1, 2, 3]")
        grid[key] = [flatten({key: value})[key] for value in values]
        if len({json.dumps(value) for value in values}) < len(values):
            raise SettingsError(f"{file}: [grid] {key} = {values!r}: allowed is every value once")
    if SEED in grid:  # last, so that the seeds of a row stand together
        grid[SEED] = grid.pop(SEED)
    return grid


def _once(
    file: Path, common: Mapping[str, Value], grid: Collection[str], rows: Mapping[str, Mapping[str, Value]]
) -> None:
    """Nothing is said in two places, and nothing that a sweep says of its runs."""
    for place, keys in (
        ("settings", common),
        ("grid", grid),
        *((f'rows."{name}"', keys) for name, keys in rows.items()),
    ):
        for key in keys:
            if key in OURS:
                raise SettingsError(f"{file}: [{place}] {key}: a sweep chooses it for every run")
            if place != "grid" and key in grid:
                raise SettingsError(f"{file}: {key} stands in [grid] and in [{place}]: allowed is one of them")


def _label(name: str, varied: Mapping[str, Value]) -> str:
    """Of a row: its name, and what the grid makes of it; a method goes by its name alone."""
    told = [str(value) if key == "method" else f"{key}={value}" for key, value in varied.items()]
    return ", ".join([*([name] if name else []), *told]) or "run"
