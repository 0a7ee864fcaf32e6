"""Load: many nodes, simulated and deployed, each a whole run.

*simulated*: 5,000 nodes under Flower's simulation, 100 of them a round, for 200 rounds; the ServerApp's memory must not
grow. *deployed*: as many SuperNodes as this machine holds, each a process of its own with a key and TLS.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter
from typing import Any

import psutil

from benchmarks.document import DOCS, ROOT, replace_part, table
from benchmarks.images import images
from benchmarks.task import Command, Options
from protocol import Scalar

DOCUMENT = DOCS / "deploy.md"
GROWTH = 1.1  # of the ServerApp's memory, from a tenth of the rounds to the last
_HEADS = ["run", "nodes", "a round", "rounds", "all", "s a round", "MB a round, down / up", "ServerApp, MB", "all, MB"]
# Small on purpose: what is tried is the number of nodes, not the arithmetic.
_JOB: dict[str, Scalar] = {
    "model": "mlp",
    "widths": "64, 32",
    "local-steps": 3,
    "local-test-fraction": 0.0,
    "evaluate-every": 50,
    "checkpoint-every": 50,
    "tier-assignment": "fixed",
}


def simulated(nodes: int, rounds: int) -> list[str]:
    """Run a simulation, 100 nodes a round or all of them, and return its line of the table."""
    with images() as found:
        keys: dict[str, Scalar] = {
            **_JOB,
            "dataset": found.dataset,
            "data-root": found.data_root,
            "num-clients": nodes,
            "fraction-train": min(1.0, 100 / nodes),
            "num-server-rounds": rounds,
        }
        return _line("`flotilla run`", nodes, *_run("run", keys))


def deployed(nodes: int, rounds: int) -> list[str]:
    """Run a federation of processes, everybody in every round, and return its line of the table."""
    keys: dict[str, Scalar] = {**_JOB, "num-server-rounds": rounds, "num-clients": nodes, "tier-assignment": "node"}
    return _line("`flotilla federation`", nodes, *_run("federation", keys))


def _run(command: str, keys: Mapping[str, Scalar]) -> tuple[list[dict[str, Any]], float, int]:
    """Run a command of ours: its metrics, its seconds, and the peak of all its processes' own memory in bytes."""
    config = " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        began, peak, end = perf_counter(), [0], Event()
        started = subprocess.Popen(
            [sys.executable, "-m", "flotilla", command, str(ROOT), "--run-dir", f"{folder}/run", "-c", config], cwd=ROOT
        )
        watcher = Thread(target=_watch, args=(started.pid, peak, end), daemon=True)
        watcher.start()
        code = started.wait()
        end.set()
        watcher.join()
        if code:
            raise RuntimeError(f"flotilla {command} ended with {code}")
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], perf_counter() - began, peak[0]


def _watch(pid: int, peak: list[int], end: Event) -> None:
    """Keep the most that the processes under one had for themselves at a time."""
    while not end.wait(2.0):
        total = 0
        try:
            for process in psutil.Process(pid).children(recursive=True):
                try:
                    total += process.memory_full_info().uss
                except psutil.Error:  # it ended meanwhile
                    continue
        except psutil.Error:
            return
        peak[0] = max(peak[0], total)


def _line(what: str, nodes: int, rows: Sequence[Mapping[str, Any]], seconds: float, peak: int) -> list[str]:
    early, late = rows[max(0, len(rows) // 10 - 1)]["resident_bytes"], rows[-1]["resident_bytes"]
    lost = [loss for row in rows for loss in row["rejected"]]
    if lost:
        raise RuntimeError(f"{len(lost)} replies were lost, the first: {lost[0]}")
    if late > GROWTH * early:
        raise RuntimeError(f"the ServerApp grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
    took = median(row["seconds"]["select"] + row["seconds"]["train"] + row["seconds"]["fold"] for row in rows)
    down, up = (median(row[key] for row in rows) / 1e6 for key in ("bytes_down", "bytes_up"))
    return [
        what,
        f"{nodes:,}",
        str(rows[-1]["accepted"]),
        str(len(rows)),
        f"{seconds:.0f} s",
        f"{took:.2f}",
        f"{down:.1f} / {up:.1f}",
        f"{early / 1e6:.0f} → {late / 1e6:.0f}",
        f"{peak / 1e6:,.0f}",
    ]


_PARTS = {"simulated": (simulated, 5000, 200), "deployed": (deployed, 40, 20)}


def _tables(options: Options) -> int:
    """Run, print the table, write it into docs/deploy.md."""
    for part in options.parts:
        make, nodes, rounds = _PARTS[part]
        text = table(_HEADS, [make(options.nodes or nodes, options.rounds or rounds)], markdown=True)
        print(f"\n{text}", flush=True)
        if options.write:
            replace_part(DOCUMENT, f"load-{part}", text)
    return 0


TASK = Command(_tables, parts=_PARTS, defaults={"nodes": 0, "rounds": 0, "write": False})
