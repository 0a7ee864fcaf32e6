"""The like-for-like tables.

All rows of a table train on the same division of the data, with the same seed, rounds and number of clients, through
the in-process engine. A finished run is kept in runs/results-…/ and not repeated; a stopped one is resumed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter

from benchmarks.document import RESULTS, ROOT, replace_part
from benchmarks.experiments.comparison import Finished, Summary, tables
from benchmarks.experiments.figure import draw
from benchmarks.experiments.like_for_like import COMPARISONS, Comparison
from benchmarks.task import Command, Options
from client_app.app import app
from flotilla.local.base import EngineGrid
from flotilla.local.grid import LocalGrid, contexts
from flotilla.local.pool import PoolGrid
from models.errors import SettingError
from protocol import Scalar, keep_large_buffers
from server_app.config.resolve import RunConfig, resolve
from server_app.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared.

    Attributes:
        comparison: which table.
        partitions, methods: names among those of the comparison.
        seeds: of the runs; every row is run with each.
        rounds: of every run.
    """

    comparison: Comparison
    partitions: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    rounds: int

    def keys(self, partition: str, method: str, seed: int) -> dict[str, Scalar]:
        """Run settings of one row."""
        every = max(1, self.rounds // 3)  # an evaluation passes over everybody's data
        own = {"num-server-rounds": self.rounds, "evaluate-every": every, "checkpoint-every": every, "seed": seed}
        table = self.comparison
        return {**table.common, **table.partitions[partition], **table.methods[method], **own}

    @property
    def folder(self) -> str:
        """Name of the folder of these runs; another comparison has another."""
        text = json.dumps([self.comparison.common, self.rounds], sort_keys=True)
        return f"results-{sha256(text.encode()).hexdigest()[:8]}"


def run_all(plan: Plan, runs: Path, say: Callable[[str], None], processes: int | None = None) -> list[Finished]:
    """Run what is not there yet, and return every row."""
    rows = []
    for partition in plan.partitions:
        for seed in plan.seeds:
            wanted = [name for name in plan.methods if not _finished(_place(plan, runs, partition, name, seed))]
            if wanted:
                _run(plan, runs, partition, wanted, seed, say, processes)
            for name in plan.methods:
                config = resolve(plan.keys(partition, name, seed), check_files=False)
                found = Summary.read(_place(plan, runs, partition, name, seed), config)
                rows.append(Finished(partition=partition, method=name, seed=seed, run=found))
    return rows


def _place(plan: Plan, runs: Path, partition: str, method: str, seed: int) -> Path:
    # A row that is made differently has another folder, whatever it is called.
    made = json.dumps([plan.comparison.partitions[partition], plan.comparison.methods[method]], sort_keys=True)
    return runs / plan.folder / f"{partition}-{sha256(made.encode()).hexdigest()[:8]}-{seed}"


def _finished(place: Path) -> bool:
    try:
        return bool(json.loads((place / "summary.json").read_text(encoding="utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError):
        return False


def _run(
    plan: Plan,
    runs: Path,
    partition: str,
    methods: Sequence[str],
    seed: int,
    say: Callable[[str], None],
    processes: int | None,
) -> None:
    """Run methods on one division of the data. They share the workers: a client knows its data, not the method."""
    shared = resolve(plan.keys(partition, methods[0], seed))
    with _grid(shared, processes) as grid:
        for method in methods:
            place, began = _place(plan, runs, partition, method, seed), perf_counter()
            stopped = (place / "config.json").is_file()
            where: dict[str, Scalar] = {"resume": str(place)} if stopped else {"run-dir": str(place)}
            grid.forget()
            config = resolve({**plan.keys(partition, method, seed), **where})

            def write(line: str, name: str = f"{partition} {method}") -> None:
                if line.startswith("round") and " acc " in line:
                    say(f"{name}: {line}")

            Run(config, grid, write).execute()
            say(f"{partition} {method}, seed {seed}: {perf_counter() - began:.0f} s")


@contextmanager
def _grid(config: RunConfig, processes: int | None) -> Iterator[EngineGrid]:
    if processes == 0:
        yield LocalGrid(app, contexts(config.flat, config.num_clients))
        return
    with PoolGrid(config.flat, config.num_clients, processes) as grid:
        yield grid


def _stated(plan: Plan) -> str:
    return f"{plan.rounds} rounds; seeds {', '.join(map(str, plan.seeds))}; runs in `runs/{plan.folder}/`."


def _compare(table: Comparison, options: Options) -> int:
    """Run, print, and write the tables and the picture."""
    keep_large_buffers()
    plan = Plan(
        comparison=table,
        partitions=options.partitions or list(table.partitions),
        methods=options.methods or list(table.methods),
        seeds=options.seeds or table.seeds,
        rounds=options.rounds or table.rounds,
    )
    if unknown := {*plan.partitions, *plan.methods} - {*table.partitions, *table.methods}:
        allowed = ", ".join([*table.partitions, *table.methods])
        print(f"{', '.join(sorted(unknown))}: allowed is {allowed}", file=sys.stderr)
        return 2
    try:
        rows = run_all(plan, ROOT / "runs", lambda line: print(line, flush=True), options.processes)
    except SettingError as error:
        print(f"{table.title}: {error}", file=sys.stderr)
        return 2
    text = tables(rows, [_stated(plan)])
    print(text)
    if options.write:
        replace_part(RESULTS, table.title, text)
        draw(rows, RESULTS.with_name(f"{table.title}.svg"))
    return 0


TASKS = {
    name: Command(
        partial(_compare, table),
        defaults={"rounds": 0, "seeds": (), "methods": (), "partitions": (), "processes": None, "write": False},
    )
    for name, table in COMPARISONS.items()
}
