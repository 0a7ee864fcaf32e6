"""Data of one's own, each by configuration alone: tables, texts and folders of pictures in several layouts.

Files as people have them are written from what ships with scikit-learn (and sentences that are made up here), and
`flotilla run` reads them. Seconds are the whole command's; memory is the peak of its process.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.document import DOCS, replace_part, table
from benchmarks.job import flotilla_run
from benchmarks.machine import machine
from benchmarks.task import Command, Options

DOCUMENT = DOCS / "data.md"
HEADS = ["data", "what it is read by", "result", "seconds", "MB"]
_CLINICS = ("north", "south", "west")
_SHARED = 'model="mlp" widths="32, 16" num-clients=3 num-server-rounds=8 evaluate-every=8 tiers="a:1, b:1/2"'


def _cancer(folder: Path) -> None:
    """One table, with a column that says which clinic a row is from, and some missing values."""
    _tables(folder, "load_breast_cancer", one_file=True)


def _wine(folder: Path) -> None:
    """A table a clinic."""
    _tables(folder / "clinics", "load_wine", one_file=False)


def _diabetes(folder: Path) -> None:
    """Likewise one table; a number is to be predicted."""
    _tables(folder, "load_diabetes", one_file=True)


def _tables(folder: Path, loader: str, *, one_file: bool) -> None:
    from sklearn import datasets

    data, draws = getattr(datasets, loader)(), np.random.default_rng(0)
    names = [str(name) for name in getattr(data, "target_names", [])]
    head = [str(name).replace(" ", "_") for name in data.feature_names]
    parts: dict[str, list[list[str]]] = {clinic: [] for clinic in _CLINICS}
    for row in draws.permutation(len(data.data)):
        cells = [f"{value:g}" for value in data.data[row]]
        if draws.random() < 0.1:
            cells[int(draws.integers(len(cells)))] = "?"
        target = names[int(data.target[row])] if names else f"{data.target[row]:g}"
        parts[_CLINICS[int(draws.integers(3))]].append([*cells, target])
    if one_file:
        rows = [[*row[:-1], clinic, row[-1]] for clinic, part in parts.items() for row in part]
        _write(folder / "table.csv", [*head, "clinic", "outcome"], rows)
        return
    for clinic, part in parts.items():
        _write(folder / f"{clinic}.csv", [*head, "outcome"], part)


def _questions(folder: Path) -> None:
    """A file of texts with a label and who asked."""
    asked = {
        "place": ("where is the {}", "how far is the {}", "in which town is the {}"),
        "person": ("who built the {}", "who owns the {}", "whose is the {}"),
        "time": ("when was the {} built", "in which year came the {}", "how old is the {}"),
    }
    things = ("bridge", "station", "tower", "harbour", "garden", "school", "mill", "castle", "road", "library")
    rows = [
        [form.format(thing), label, _CLINICS[(number + place) % 3]]
        for label, forms in asked.items()
        for number, form in enumerate(forms)
        for place, thing in enumerate(things)
    ]
    _write(folder / "questions.csv", ["text", "label", "who"], rows)


def _write(file: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([head, *rows])


def _pictures(place: Callable[[str, str, int], str], *, deep: bool = False) -> Callable[[Path], None]:
    """The digits as pictures: where one lies says `place(part, class, number)`."""

    def write(folder: Path) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        for number, (pixels, label) in enumerate(zip(images.reshape(-1, 8, 8), labels, strict=True)):
            part = "test" if number % 5 == 0 else "val" if number % 5 == 1 else "train"
            file = folder / place(part, f"digit {label}", number)
            file.parent.mkdir(parents=True, exist_ok=True)
            levels = pixels / 16 * (65535 if deep else 255)
            Image.fromarray(levels.astype(np.uint16 if deep else np.uint8)).save(file)

    return write


def _split(part: str, name: str, number: int) -> str:
    return f"{part}/{name}/{number}.png"


def _unsplit(part: str, name: str, number: int) -> str:
    return f"{name}/batch {number % 4}/{number}.bmp"


def _by_client(part: str, name: str, number: int) -> str:
    return f"test/{name}/{number}.png" if part == "test" else f"train/{_CLINICS[number % 3]}/{name}/{number}.png"


def _by_name(part: str, name: str, number: int) -> str:
    return f"{'test' if part == 'test' else 'train'}/{name}/{_CLINICS[number % 3]}_{number}.png"


_FOLDER = 'dataset="image-folder" image-size=8 image-channels=1'
_TABLE = 'dataset="csv:table.csv" table-clients="clinic" partition="natural"'
# What is read by what: how it is written, and the configuration.
JOBS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "breast cancer, a table with a column of clinics": (_cancer, _TABLE),
    "wine, a table a clinic": (_wine, 'dataset="csv:clinics/*.csv" partition="natural"'),
    "diabetes, a table, a number to predict": (_diabetes, f'{_TABLE} task="regression"'),
    "questions, labelled texts by who asked": (
        _questions,
        'dataset="texts" text-columns="text, label, who" partition="natural" sequence-length=8 model="gru"'
        ' widths="16, 16"',
    ),
    "pictures, train / val / test": (_pictures(_split), _FOLDER),
    "pictures, one folder of classes with folders in them": (_pictures(_unsplit), _FOLDER),
    "pictures, a folder a client": (_pictures(_by_client), f'{_FOLDER} client-from="folder" partition="natural"'),
    "pictures, the client in the name": (
        _pictures(_by_name),
        f'{_FOLDER} client-from="{{client}}_*.png" partition="natural"',
    ),
    "pictures of 16 bits": (_pictures(_split, deep=True), _FOLDER),
}


def line(name: str) -> list[str]:
    """Write the files, run, and say what came of it.

    Raises:
        RuntimeError: the run failed.
    """
    write, config = JOBS[name]
    shared = _SHARED if "model=" not in config else _SHARED.partition('widths="32, 16" ')[2]
    with tempfile.TemporaryDirectory(prefix="sources-") as folder:
        write(Path(folder) / "data")
        settings = f'{shared} {config} data-root="{folder}/data"'
        options, cache = ("--engine", "local", "--processes", "0"), {"FLOTILLA_CACHE": f"{folder}/cache"}
        ran = flotilla_run(Path(folder) / "run", settings, *options, env=cache)
        summary = json.loads((Path(folder) / "run/summary.json").read_text(encoding="utf-8"))
    last = summary["last"]
    found = f"RMSE {last['score']:.1f}" if last["accuracy"] is None else f"{last['accuracy']:.1%}"
    return [name, f"`{config}`", found, f"{ran.seconds:.1f}", f"{ran.peak_kb / 1e3:,.0f}"]


def _run(options: Options) -> int:
    """Run all, print the table, write it into docs/data.md."""
    lines = []
    for name in JOBS:
        if not options.only or any(word in name for word in options.only):
            lines.append(line(name))
            print("  ".join(lines[-1]), flush=True)
    if options.write:
        replace_part(DOCUMENT, "sources", f"{table(HEADS, lines, markdown=True)}\n\n{machine()}.")
    return 0


TASK = Command(_run, defaults={"only": (), "write": False})
