"""All methods like for like, under measured limits and with natural clients (docs/evidence.md).

It is a sweep: what is finished stays, and the same command goes on where it was stopped. Whenever a run ends, its lines
are in runs/evidence/evidence.csv. `--rows docs/evidence.csv` makes the tables from the lines that are checked in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.document import DOCS, replace_part
from benchmarks.experiments.evidence.plan import PARTS, SEEDS, cells, rows_of
from benchmarks.experiments.evidence.rows import Row, as_csv, in_order, read_csv, read_run
from benchmarks.experiments.evidence.tables import all_costs, all_sizes, text
from benchmarks.experiments.rank_tables import Place
from benchmarks.experiments.sweeping import run, with_data_root
from benchmarks.task import Command, Options
from flotilla.settings import SettingsError
from flotilla.studies.plan import Cell
from flotilla.studies.sweep import Folder
from server_app.folder.files import replace_text

DOCUMENT = DOCS / "evidence.md"
NUMBERS = DOCS / "evidence.csv"
TITLES = {
    **{
        f"{data}-{split}": f"{name}, {shown}"
        for data, name in (("fashion", "Fashion-MNIST"), ("cifar", "CIFAR-10"))
        for split, shown in (("iid", "IID"), ("dirichlet-0.6", "Dirichlet 0.6"), ("dirichlet-0.3", "Dirichlet 0.3"))
    },
    "limit-memory": "Limited memory",
    "limit-compute": "Limited compute",
    "limit-link": "Limited link",
    "har-subjects": "UCI HAR, a client a subject",
    "text-speakers": "Tiny Shakespeare, a client some speakers",
}
# Once in place of once a run.
_IMPORTED = ("benchmarks.experiments.evidence.imported",)
_COSTS = ("fashion-iid", "har-subjects", "text-speakers")


class Results:
    """The lines of finished runs: each run is read once.

    Args:
        place: folder of the sweep.
        wanted: part, method and run.
    """

    def __init__(self, place: Folder, wanted: Sequence[tuple[str, str, Cell]]) -> None:
        self._place, self._wanted = place, wanted
        self._read: dict[str, list[Row]] = {}

    @property
    def file(self) -> Path:
        """Where they are kept."""
        return self._place.path / NUMBERS.name

    def rows(self) -> list[Row]:
        """Those of all runs that are finished by now, in the order of the plan."""
        for part, method, cell in self._wanted:
            if cell.name not in self._read and self._place.finished(cell):
                place = Place(
                    part=part,
                    method=method,
                    seed=int(str(cell.seed)),
                    run=self._place.run(cell),
                    log=self._place.log(cell),
                )
                self._read[cell.name] = read_run(place)
        return [row for *_, cell in self._wanted for row in self._read.get(cell.name, ())]

    def save(self) -> None:
        """Keep them: whole, or as they were."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.file, as_csv(self.rows()))


def measured(options: Options) -> list[Row]:
    """Run what is not finished of some parts; returns the lines of everything that is finished.

    Raises:
        SettingsError: a run that cannot be, or one that failed.
    """
    every = list(PARTS), sorted({*SEEDS, *options.seeds})
    told = [(part, method, cell) for part, method, one in cells(*every) for cell in with_data_root([one], options)]
    chosen = [
        cell
        for part, method, cell in told
        if part in options.parts and cell.seed in options.seeds and method in (options.methods or (method,))
    ]
    place = Folder(path=(options.root / "runs" / "evidence").absolute())
    results = Results(place, told)
    try:
        run(place, chosen, options, preload=_IMPORTED, finished=results.save)
    finally:
        results.save()
    return results.rows()


def _run(options: Options) -> int:
    """Run, print, and write document and numbers; with `--rows` without running."""
    known = list(dict.fromkeys(row for part in PARTS for row in rows_of(part)))
    if unknown := sorted(set(options.methods) - set(known)):
        print(f"evidence: {', '.join(unknown)}: allowed is {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        rows = measured(options) if options.rows is None else read_csv(options.rows)
    except SettingsError as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 2
    shown(rows, options)
    return 0


def shown(rows: Sequence[Row], options: Options) -> None:
    """Print the tables of all parts, and write them if asked to."""
    wanted = [(part, method, seed) for part in PARTS for seed in SEEDS for method in rows_of(part)]
    ordered = in_order(rows, [(part, method) for part in PARTS for method in rows_of(part)])
    blocks = {
        "evidence": text(ordered, wanted, TITLES),
        "evidence costs": all_costs(ordered, _COSTS, TITLES),
        "evidence limits": all_sizes(),
    }
    print("\n\n".join(blocks.values()))
    if options.write:
        for name, block in blocks.items():
            replace_part(DOCUMENT, name, block)
        replace_text(NUMBERS, as_csv(ordered))


TASK = Command(
    _run,
    parts=tuple(PARTS),
    defaults={
        "seeds": list(SEEDS),
        "methods": (),
        "processes": 1,
        "data_root": "",
        "root": Path(),
        "rows": None,
        "write": False,
    },
)
