"""A round of the local engine among a million clients against the same round among a thousand.

The default job with `partition = "drawn"`: every client draws 50 digits by itself, 100 train a round, 100 are asked for
statistics, and every round is evaluated, written and saved. Each run is a process of its own in which everything is
done (no workers), so that its CPU seconds and its resident peak are all there is, whatever else the machine does; the
two take turns. A round counts from one line of output to the next, so whatever the server does in between is in it; the
first one, before which the data are divided, is left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from benchmarks.bench.resident import peak
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.document import ROOT, Say
from protocol import Scalar

NAME = "clients"
_MOST_MEMORY = 300e6  # bytes above the run among few


def clients(
    say: Say = print, clients: int = 1_000_000, few: int = 1000, chosen: int = 100, rounds: int = 6, turns: int = 9
) -> list[Row]:
    """Measure seconds a round, and memory.

    Args:
        say: takes progress.
        clients: registered ones.
        few: the number that they are compared with.
        chosen: how many train a round.
        rounds: of each run; the first is left out.
        turns: runs of each kind.
    """
    cpu, wall, memory = [], [], []
    for turn in range(turns):
        many, some = (_in_a_process(count, chosen, rounds) for count in (clients, few))
        for count, one in ((clients, many), (few, some)):
            say(f"clients: {count:,}: {1e3 * one['cpu']:.0f} ms of CPU time a round, {one['bytes'] / 1e6:.0f} MB")
        cpu.append((many["cpu"], some["cpu"]))
        wall.append((many["seconds"], some["seconds"]))
        memory.append((max(0.0, many["bytes"] - some["bytes"]), _MOST_MEMORY))
        say(f"clients: turn {turn + 1} of {turns}")
    said, against = f"{clients:,} clients", f"{few:,} clients"
    note = f"medians of {rounds - 1} rounds of each run, whole: statistics, evaluation and checkpoint included"
    above = f"{said}: memory above {against} / {_MOST_MEMORY / 1e6:.0f} MB"
    return [
        row_of_turns(
            NAME,
            f"{said} / {against}: CPU time of a round of {chosen}",
            cpu,
            unit="ms",
            scale=1e3,
            limit=1.2,
            note=note,
        ),
        row_of_turns(NAME, f"{said} / {against}: a round of {chosen}", wall, unit="ms", scale=1e3),
        row_of_turns(NAME, above, memory, unit="MB", scale=1e-6, limit=1.0, note="resident peak of the process"),
    ]


def _in_a_process(count: int, chosen: int, rounds: int) -> dict[str, float]:
    """What `_run` finds.

    Raises:
        RuntimeError: it failed; says how.
    """
    command = [sys.executable, "-m", __name__, *map(str, (count, chosen, rounds))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def keys(count: int, chosen: int, rounds: int) -> dict[str, Scalar]:
    """The job, as a configuration."""
    return {
        "num-clients": count,
        "partition": "drawn",
        "examples-per-client": 50,
        "fraction-train": chosen / count,
        "statistics-nodes": chosen,
        "num-server-rounds": rounds,
    }


def _run(count: int, chosen: int, rounds: int) -> dict[str, float]:
    """Run in this process: medians of seconds and CPU seconds a round, and bytes."""
    from client_app.app import app
    from flotilla.local.directory import directory_of
    from flotilla.local.grid import LazyContexts, LocalGrid
    from server_app.config.resolve import resolve
    from server_app.run import Run

    ends = list[tuple[float, float]]()

    def note(line: str) -> None:
        if line.startswith("round "):
            ends.append((perf_counter(), process_time()))

    with tempfile.TemporaryDirectory() as folder:
        config = resolve({**keys(count, chosen, rounds), "run-dir": str(Path(folder) / "run")})
        grid = LocalGrid(app, LazyContexts(config.flat, count), directory=directory_of(config.data, count))
        Run(config, grid, write=note).execute()
    if len(ends) != rounds:
        raise RuntimeError(f"{len(ends)} of {rounds} rounds")
    wall, cpu = zip(*(map(float.__sub__, after, before) for before, after in pairwise(ends)), strict=True)
    return {"seconds": median(wall), "cpu": median(cpu), "bytes": peak()}


if __name__ == "__main__":
    print(json.dumps(_run(*map(int, sys.argv[1:4]))))
