"""Rules for devices of unlike ranks, like for like.

A small network is trained on one half of a data set as one client; from this base all rules adapt it to the other half,
on the same division of the data with the same seeds, beside everybody at the largest and at the smallest rank, and all
weights trained. `tune` chooses learning rates, on held out training examples and a seed of its own, and prints them.

All of it is a sweep: what is finished stays, and the same command goes on where it was stopped. `flotilla compare
runs/ranks` holds all runs against each other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.document import DOCS, replace_part, table
from benchmarks.experiments.rank_plan import (
    BASE,
    DATA,
    FAMILIES,
    METHODS,
    PARTS,
    SEEDS,
    cells,
    row_of,
    tuning_cells,
)
from benchmarks.experiments.rank_tables import Place, as_csv, tables
from benchmarks.experiments.sweeping import run, with_data_root
from benchmarks.task import Command, Options
from flotilla.settings import SettingsError, Value
from flotilla.studies.plan import Cell
from flotilla.studies.sweep import Folder
from server_app.folder.run_folder import SUMMARY

DOCUMENT = DOCS / "ranks.md"
NUMBERS = DOCS / "ranks.csv"
TUNE = "tune"


def bases(folder: Path, names: Sequence[str], options: Options) -> Mapping[str, Path]:
    """Train the bases that are not there yet; returns their run folders by data set.

    Raises:
        SettingsError: one cannot be trained.
    """
    told: dict[str, Cell] = {}
    for name in names:
        data = DATA[name]
        keys: dict[str, Value] = {**data.keys("first"), **BASE, **data.base, **_data_root(options)}
        told[name] = Cell(row=name, seed=1, keys={**keys, "seed": 1, "evaluate-every": BASE["num-server-rounds"]})
    place = Folder(path=folder / "bases")
    run(place, list(told.values()), options)
    for name, cell in told.items():
        last = json.loads((place.run(cell) / SUMMARY).read_text(encoding="utf-8"))["last"]
        print(f"{name}: a base of accuracy {last['accuracy']:.1%} on its half")
    return {name: place.run(cell) for name, cell in told.items()}


def _data_root(options: Options) -> dict[str, Value]:
    return {"data-root": options.data_root} if options.data_root else {}


def tune(folder: Path, options: Options) -> str:
    """Accuracy on held out training examples by row and learning rate, as Markdown; * is the highest of a row."""
    found = bases(folder, list(DATA), options)
    place, told = Folder(path=folder / TUNE), list(tuning_cells(found))
    ready = with_data_root([cell for *_, cell in told], options)
    run(place, ready, options)
    lines = []
    scores = {
        (data, method, rate): float(json.loads((place.run(cell) / SUMMARY).read_text())["last"]["accuracy"])
        for (data, method, rate, _), cell in zip(told, ready, strict=True)
    }
    rates = sorted({rate for *_, rate in scores})
    for data in DATA:
        for method in FAMILIES:
            own = {rate: scores.get((data, method, rate)) for rate in rates}
            most = max(one for one in own.values() if one is not None)
            shown = ["–" if one is None else f"{100 * one:.1f}" + " *" * (one == most) for one in own.values()]
            lines.append([data, ", ".join((method, *FAMILIES[method])), *shown])
    return table(["data", "rows; the first is searched", *(f"{rate:g}" for rate in rates)], lines, markdown=True)


def _run(options: Options) -> int:
    """Run, print, and write the tables."""
    folder = (options.root / "runs" / "ranks").absolute()
    parts = [part for part in options.parts if part != TUNE]
    methods = options.methods or list(METHODS)
    if unknown := sorted(set(methods) - set(METHODS)):
        print(f"ranks: {', '.join(unknown)}: allowed is {', '.join(METHODS)}", file=sys.stderr)
        return 2
    try:
        if TUNE in options.parts:
            text = tune(folder, options)
            print(text)
            if options.write:
                replace_part(DOCUMENT, "ranks tune", text)
        if not parts:
            return 0
        found = bases(folder, list(dict.fromkeys(PARTS[part][0] for part in parts)), options)
        wanted = with_data_root(cells(parts, options.seeds, methods, found), options)
        place = Folder(path=folder)
        run(place, wanted, options)
    except SettingsError as error:
        print(f"ranks: {error}", file=sys.stderr)
        return 2
    runs = finished(place, wanted, parts, methods)
    print(tables(runs))
    if options.write:
        write(runs)
    return 0


def finished(place: Folder, wanted: Sequence[Cell], parts: Sequence[str], methods: Sequence[str]) -> list[Place]:
    """Those of the wanted runs that are finished."""
    rows = {row_of(part, method): (part, method) for part in parts for method in methods}
    told = [(*rows[cell.row], cell) for cell in wanted if place.finished(cell)]
    return [
        Place(part=part, method=method, seed=int(str(cell.seed)), run=place.run(cell), log=place.log(cell))
        for part, method, cell in told
    ]


def write(runs: Sequence[Place]) -> None:
    """Put tables and numbers into docs/."""
    replace_part(DOCUMENT, "ranks", tables(runs))
    NUMBERS.write_text(as_csv(runs), encoding="utf-8")


TASK = Command(
    _run,
    parts=(*PARTS, TUNE),
    defaults={"seeds": list(SEEDS), "methods": (), "processes": None, "data_root": "", "root": Path(), "write": False},
)
