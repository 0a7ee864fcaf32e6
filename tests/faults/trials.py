"""Kills parts of a deployed federation with SIGKILL at random moments, and checks what came of it.

    python -m tests.faults.trials [KILLS] [--seed S] [--rounds R]

A federation of real processes (TLS, a key per node) trains HeteroFL. At a random moment a random part is killed: a
ClientApp while it works, a SuperNode, the SuperLink, or the ServerApp. What a supervisor restarts is restarted by
`flotilla federation`; after the ServerApp's death the run is resumed with `--resume`. This goes on until there were
enough kills, in as many runs as that takes.

What is compared: a lost reply changes the average, so the result is not that of a run in which nothing happened, unless
nothing was lost. It must be, bit for bit, that of the in-process engine with the same nodes present in each round and
the same replies missing, as the run's own metrics name them. So everything else that was ever accepted is in the model,
and once only, and a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from flwr.app import Message

from flotilla.engine.grid import Faults, LocalGrid
from models.randomness import generator
from tests.support import Outcome, address_of, failed, keys_of, play, trains

ROOT = Path(__file__).parents[2]
PARTS = ("ClientApp", "SuperNode", "SuperLink", "ServerApp")
NODES = 5
KEYS: dict[str, Any] = {
    "method": "heterofl", "model": "mlp", "widths": "24, 12", "norm": "none", "num_clients": NODES,
    "tiers": "a:1, b:1/2, c:1/4, d:1/8, e:1/16", "local_epochs": 1, "evaluate_every": 1000,
    "learning_rate_schedule": "constant", "deadline": 20.0, "quorum": 0.2, "min_nodes": 1,
}  # fmt: skip


def start(run: Path, rounds: int, log: Path, *, resume: bool) -> subprocess.Popen[bytes]:
    keys = keys_of(**KEYS, num_server_rounds=rounds)
    config = " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
    command = [sys.executable, "-m", "flotilla", "federation", str(ROOT), "-c", config]
    command += ["--resume" if resume else "--run-dir", str(run)]
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def victims(federation: psutil.Process, part: str) -> list[psutil.Process]:
    """The processes of a part that are alive now."""
    found = []
    for process in federation.children(recursive=True):
        try:
            line = " ".join(process.cmdline())
            executor = "executor.py" in line
            depth = 0
            if executor:  # executor → one for each node → ClientApps
                depth = sum("executor.py" in " ".join(parent.cmdline()) for parent in process.parents())
        except psutil.Error:
            continue
        kind = {"flower-superlink": "SuperLink", "flower-supernode": "SuperNode", "app_process.py": "ServerApp"}
        named = next((value for key, value in kind.items() if key in line), "ClientApp" if depth == 2 else "")
        if named == part:
            found.append(process)
    return found


def kill_one(federation: psutil.Process, part: str, pick: float, patience: float = 60.0) -> bool:
    """Kill one process of a part, waiting for one to appear (ClientApps live for a moment only)."""
    began = time.monotonic()
    while time.monotonic() - began < patience and federation.is_running():
        try:
            found = sorted(victims(federation, part), key=lambda process: process.pid)
            if found:
                found[int(pick * len(found))].send_signal(signal.SIGKILL)
                return True
        except psutil.Error:
            pass
        time.sleep(0.02)
    return False


def one_run(folder: Path, rounds: int, kills: int, seed: int, trial: int) -> list[str]:
    """Run to the end, killing up to `kills` parts on the way; the parts that were killed."""
    draws = generator(seed, trial, "server", "kills")
    killed: list[str] = []
    log = folder.with_suffix(".log")
    process = start(folder, rounds, log, resume=False)
    while True:
        begun, due = False, float("inf")
        while process.poll() is None:
            if not begun and b"run folder:" in log.read_bytes():
                begun, due = True, time.monotonic() + draws.uniform(0, 20)
            if time.monotonic() >= due and len(killed) < kills:
                part = PARTS[int(draws.integers(len(PARTS)))]
                if kill_one(psutil.Process(process.pid), part, float(draws.random())):
                    killed.append(part)
                    print(f"    killed a {part} after {len(rows(folder))} rounds", flush=True)
                due = time.monotonic() + draws.uniform(5, 30)
            time.sleep(0.1)
        if process.returncode == 0:
            return killed
        if not killed or killed[-1] != "ServerApp":
            raise AssertionError(log.read_text(errors="replace")[-4000:])
        process = start(folder, rounds, log, resume=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def replay(deployed: Path, folder: Path, rounds: int) -> Outcome:
    """The same run in process: the same nodes in every round, the same replies missing."""
    history = {row["round"]: row for row in rows(deployed)}
    missing = {(number, loss["node"]) for number, row in history.items() for loss in row["rejected"]}

    class Recorded(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            present = history[min(len(rows(folder)) + 1, rounds)]["selected"]
            return [address_of(node) for node in sorted(present)]

    def faults(request: Message, reply: Message) -> list[Message]:
        lost = any(trains(request, node, [number]) for number, node in missing if node is not None)
        return [failed(request)] if lost else [reply]

    typed: Faults = faults
    return play(folder, typed, grid=Recorded, **KEYS, tier_assignment="fixed", num_server_rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill parts of a deployed federation.")
    parser.add_argument("kills", nargs="?", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8, help="of every run")
    parser.add_argument("--in-a-run", type=int, default=4, help="at most so many kills in one run")
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    trial = 0
    with tempfile.TemporaryDirectory(prefix="trials-") as home:
        while seen.total() < options.kills:
            trial += 1
            folder, began = Path(home) / f"run-{trial}", time.monotonic()
            most = min(options.in_a_run, options.kills - seen.total())
            killed = one_run(folder, options.rounds, most, options.seed, trial)
            seen.update(killed)
            lost = [loss for row in rows(folder) for loss in row["rejected"]]
            copy = replay(folder, Path(home) / f"replay-{trial}", options.rounds)
            assert [row["selected"] for row in copy.rows] == [row["selected"] for row in rows(folder)]
            assert copy.hash == Outcome(folder, {}, []).hash, f"trial {trial}: the model is another"
            absent = sum(NODES - len(row["selected"]) for row in rows(folder))
            happened = (
                f"killed {', '.join(killed) or 'nothing'}; {len(lost)} replies lost, {absent} times a node absent"
            )
            print(f"run {trial}: {happened}; final model equal, {time.monotonic() - began:.0f} s", flush=True)
    print("all equal:", ", ".join(f"{count} x {part}" for part, count in seen.items()))


if __name__ == "__main__":
    main()
