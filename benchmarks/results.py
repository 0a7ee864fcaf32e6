"""The like-for-like table on Fashion-MNIST: `python -m benchmarks.results`.

Every method trains the same network on the same division of the data, with the same seed, rounds and number of clients,
through the in-process engine. A finished run is kept in runs/results-…/ and not repeated; a stopped one is resumed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter

from flwr.serverapp import Grid

from benchmarks.comparison import Finished, Summary, tables
from benchmarks.document import RESULTS, replace_part
from benchmarks.figure import draw
from client_app.app import app
from flotilla.engine.grid import LocalGrid, contexts
from flotilla.engine.pool import PoolGrid
from models.errors import SettingError
from protocol import Scalar, keep_large_buffers
from server_app.config import RunConfig, resolve
from server_app.run import Run

ROOT = Path(__file__).resolve().parent.parent
FIGURE = RESULTS.with_name("results.svg")

COMMON: dict[str, Scalar] = {
    "dataset": "fashion-mnist", "model": "cnn", "widths": "16, 32, 64, 128", "num-clients": 100, "fraction-train": 0.1,
    "tiers": "a:1, b:1/2, c:1/4, d:1/8, e:1/16", "local-epochs": 1, "batch-size": 32, "local-test-fraction": 0.0,
    "slice-at": "server", "device": "cpu",
}  # fmt: skip
PARTITIONS: dict[str, dict[str, Scalar]] = {
    "iid": {"partition": "iid"},
    "dirichlet": {"partition": "dirichlet", "dirichlet-alpha": 0.5},
}
# Name in the table → what makes it.
METHODS: dict[str, dict[str, Scalar]] = {
    "fedavg": {"method": "fedavg"},
    "smallest": {"method": "smallest"},
    "exclusive": {"method": "exclusive"},
    "heterofl": {"method": "heterofl"},
    "fedrolex": {"method": "fedrolex"},
    "dropout": {"method": "dropout"},
    "fedecover": {"method": "fedecover"},
    "fjord": {"method": "fjord"},
    "fjord-kd": {"method": "fjord", "fjord-distillation": True},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared.

    Attributes:
        common: run settings that all rows share.
        partitions, methods: names among `PARTITIONS` and `METHODS`.
        seeds: of the runs; every row is run with each.
        rounds: of every run.
    """

    common: dict[str, Scalar]
    partitions: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    rounds: int

    def keys(self, partition: str, method: str, seed: int) -> dict[str, Scalar]:
        """Run settings of one row."""
        every = max(1, self.rounds // 3)  # an evaluation passes over everybody's data
        own = {"num-server-rounds": self.rounds, "evaluate-every": every, "checkpoint-every": every, "seed": seed}
        return {**self.common, **PARTITIONS[partition], **METHODS[method], **own}

    @property
    def folder(self) -> str:
        """Name of the folder of these runs; another comparison has another."""
        text = json.dumps([self.common, self.rounds], sort_keys=True)
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
                norm = resolve(plan.keys(partition, name, seed), check_files=False).network.norm
                found = Summary.read(_place(plan, runs, partition, name, seed), norm)
                rows.append(Finished(partition, name, seed, found))
    return rows


def _place(plan: Plan, runs: Path, partition: str, method: str, seed: int) -> Path:
    return runs / plan.folder / f"{partition}-{method}-{seed}"


def _finished(place: Path) -> bool:
    try:
        return bool(json.loads((place / "summary.json").read_text(encoding="utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError):
        return False


def _run(
    plan: Plan, runs: Path, partition: str, methods: Sequence[str], seed: int, say: Callable[[str], None],
    processes: int | None,
) -> None:  # fmt: skip
    """Run methods on one division of the data. They share the workers: a client knows its data, not the method."""
    shared = resolve(plan.keys(partition, methods[0], seed))
    with _grid(shared, processes) as grid:
        for method in methods:
            place, began = _place(plan, runs, partition, method, seed), perf_counter()
            stopped = (place / "config.json").is_file()
            where: dict[str, Scalar] = {"resume": str(place)} if stopped else {"run-dir": str(place)}
            config = resolve({**plan.keys(partition, method, seed), **where})

            def write(line: str, name: str = f"{partition} {method}") -> None:
                if line.startswith("round") and " acc " in line:
                    say(f"{name}: {line}")

            Run(config, grid, write).execute()
            say(f"{partition} {method}, seed {seed}: {perf_counter() - began:.0f} s")


@contextmanager
def _grid(config: RunConfig, processes: int | None) -> Iterator[Grid]:
    if processes == 0:
        yield LocalGrid(app, contexts(config.flat, config.num_clients))
        return
    with PoolGrid(config.flat, config.num_clients, processes) as grid:
        yield grid


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, and write the tables and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--partitions", nargs="+", choices=PARTITIONS, default=list(PARTITIONS), metavar="NAME")
    parser.add_argument("--processes", type=int, default=None, help="workers; default: one per core; 0: none")
    parser.add_argument("--no-write", action="store_true", help="print the tables, leave docs/ as it is")
    options = parser.parse_args(arguments)
    keep_large_buffers()
    plan = Plan(COMMON, options.partitions, options.methods, options.seeds, options.rounds)
    try:
        rows = run_all(plan, ROOT / "runs", lambda line: print(line, flush=True), options.processes)
    except SettingError as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    text = tables(rows, [_stated(plan)])
    print(text)
    if not options.no_write:
        replace_part(RESULTS, "results", text)
        draw(rows, FIGURE)
    return 0


def _stated(plan: Plan) -> str:
    return f"{plan.rounds} rounds; seeds {', '.join(map(str, plan.seeds))}; runs in `runs/{plan.folder}/`."


if __name__ == "__main__":
    sys.exit(main())
