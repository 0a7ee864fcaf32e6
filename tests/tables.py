"""Tables as hospitals might have them, made from the data that ship with scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from sklearn import datasets

_LOADERS = {
    "cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
}


def write_tables(folder: Path, name: str, *, sites: bool = False) -> list[Path]:
    """Write one file with a column of sites, or a file a site; one cell in ten rows is "?", one column holds texts."""
    data = _LOADERS[name]()
    draws = np.random.default_rng(0)
    named = list(getattr(data, "target_names", []))
    header = [*(str(column).replace(" ", "_") for column in data.feature_names), "ward", "site", "outcome"]
    rows: list[list[str]] = []
    for row in draws.permutation(len(data.data)):
        cells = [f"{value:g}" for value in data.data[row]]
        if draws.random() < 0.1:
            cells[int(draws.integers(len(cells)))] = "?"
        target = data.target[row]
        outcome = str(named[int(target)]) if named else f"{target:g}"
        rows.append([*cells, ["day", "night"][int(draws.integers(2))], "abcd"[int(draws.integers(4))], outcome])
    if not sites:
        return [_written(folder / f"{name}.csv", header, rows)]
    parts = {site: [row for row in rows if row[-2] == site] for site in "abcd"}
    return [_written(folder / f"{name}-{site}.csv", header, part) for site, part in parts.items()]


def _written(file: Path, header: list[str], rows: list[list[str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([header, *rows])
    return file
