"""A round of the local engine among a million clients against the same round among a thousand.

The default job with `partition = "drawn"`: every client draws 50 digits by itself, 100 train a round, 100 are asked for
statistics, and every round is evaluated, written and saved. Each run is a process of its own, and the two take turns; a
round counts from one line of output to the next, so whatever the server does in between is in it, and the first one,
before which the data are divided and workers begin, is left out. Memory is the server's resident peak and what its
workers hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil

from benchmarks.bench.resident import peak
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.document import ROOT, Say
from protocol import Scalar

NAME = "clients"
_MOST_MEMORY = 300e6  # bytes above the run among few


def clients(
    say: Say = print, clients: int = 1_000_000, few: int = 1000, chosen: int = 100, rounds: int = 11, turns: int = 3
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
    seconds, memory = [], []
    for turn in range(turns):
        pair = []
        for count in (clients, few):
            say(f"clients: turn {turn + 1} of {turns}, {count:,} clients")
            pair.append(_in_a_process(count, chosen, rounds))
        say(", ".join(f"{1e3 * one[0]:.0f} ms a round, {one[1] / 1e6:.0f} MB, {one[2]:.1f} s in all" for one in pair))
        seconds.append((pair[0][0], pair[1][0]))
        memory.append((max(0.0, pair[0][1] - pair[1][1]), _MOST_MEMORY))
    said = f"{clients:,} clients"
    return [
        row_of_turns(
            NAME,
            f"{said} / {few:,}: a round of {chosen}",
            seconds,
            unit="ms",
            scale=1e3,
            limit=1.2,
            note=f"medians of {rounds - 1} rounds of each run, whole: statistics, evaluation and checkpoint included",
        ),
        row_of_turns(
            NAME,
            f"{said}: memory above {few:,} clients / {_MOST_MEMORY / 1e6:.0f} MB",
            memory,
            unit="MB",
            scale=1e-6,
            limit=1.0,
            note="resident peak of the server and what its workers hold",
        ),
    ]


def _in_a_process(count: int, chosen: int, rounds: int) -> tuple[float, float, float]:
    """Median seconds a round, bytes, and seconds of the whole run.

    Raises:
        RuntimeError: it failed; says how.
    """
    command = [sys.executable, "-m", __name__, *map(str, (count, chosen, rounds))]
    began = perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["bytes"], perf_counter() - began


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
    """Run in this process."""
    from client_app.app import app  # noqa: F401 (as `flotilla run` does)
    from flotilla.local.directory import directory_of
    from flotilla.local.pool import PoolGrid
    from server_app.config.resolve import resolve
    from server_app.run import Run

    ends, workers = list[float](), [0]

    def note(line: str) -> None:
        if line.startswith("round "):
            ends.append(perf_counter())
            found = psutil.Process().children(recursive=True)
            workers.append(sum(one.memory_info().rss for one in found))

    with tempfile.TemporaryDirectory() as folder:
        config = resolve({**keys(count, chosen, rounds), "run-dir": str(Path(folder) / "run")})
        with PoolGrid(config.flat, count, directory=directory_of(config.data, count)) as grid:
            Run(config, grid, write=note).execute()
    if len(ends) != rounds:
        raise RuntimeError(f"{len(ends)} of {rounds} rounds")
    steps = [after - before for before, after in pairwise(ends)]
    return {"seconds": median(steps), "bytes": peak() + max(workers)}


if __name__ == "__main__":
    print(json.dumps(_run(*map(int, sys.argv[1:4]))))
