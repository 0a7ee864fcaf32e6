"""Kills parts of a deployed federation with SIGKILL at random moments, and checks what came of it.

    python -m tests.faults.trials [KILLS] [--seed S] [--rounds R] [--in-a-run K]

A federation of real processes (TLS, a key per node) trains HeteroFL. At random moments one of its parts is killed: a
ClientApp somewhere in its life, a SuperNode, the SuperLink, or the ServerApp; each as often as the others. What a
supervisor restarts is restarted by `flotilla federation`; after the ServerApp's death the run is resumed with
`--resume`. This goes on until there were enough kills, in as many runs as that takes.

Two things are checked of every run.

*What was lost was in flight.* Every reply that is missing in the metrics must be the consequence of a kill, and a kill
may cost so much and no more (`tests.faults.losses`).

*What was not lost counted, once.* A lost reply changes the average, so the result is not that of a run in which nothing
happened. It must be, bit for bit, that of the in-process engine with the same nodes present in each round and the same
replies missing, as the run's own metrics name them; so a resumed run is also the uninterrupted one.
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
from types import FrameType
from typing import Any

import numpy as np
from flwr.app import Message

from flotilla.deploy.tls_keys import make_keys
from flotilla.local.grid import Faults, LocalGrid
from models.randomness import generator
from tests.faults.losses import Diary, Kill, lost_in
from tests.faults.parts import Federation
from tests.support import Outcome, address_of, failed, keys_of, play, trains

ROOT = Path(__file__).parents[2]
PARTS = ("ClientApp", "SuperNode", "SuperLink", "ServerApp")
NODES = 5
LIMIT = 1200.0  # seconds that a run may take
KEYS: dict[str, Any] = {
    "method": "heterofl",
    "model": "mlp",
    "widths": "24, 12",
    "norm": "none",
    "num_clients": NODES,
    "tiers": "a:1, b:1/2, c:1/4, d:1/8, e:1/16",
    "local_epochs": 1,
    "evaluate_every": 1000,
    "learning_rate_schedule": "constant",
    "deadline": 20.0,
    "quorum": 0.2,
    "min_nodes": 1,
}


def order(kills: int, draws: np.random.Generator) -> list[str]:
    """Which parts to kill: each equally often, in an order that is drawn anew for each four."""
    return [str(part) for _ in range(0, kills, len(PARTS)) for part in draws.permutation(PARTS)][:kills]


def start(run: Path, rounds: int, log: Path, keys: Path, *, resume: bool) -> subprocess.Popen[bytes]:
    settings = keys_of(**KEYS, num_server_rounds=rounds)
    config = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    command = [sys.executable, "-m", "flotilla", "federation", str(ROOT), "-c", config, "--keys", str(keys)]
    command += ["--resume" if resume else "--run-dir", str(run)]
    with log.open("ab") as output:
        output.write(b"\n==> resumed <==\n" if resume else b"")
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a federation and what it started, whatever state it is in."""
    for ask, seconds in ((process.terminate, 60.0), (process.kill, 30.0)):  # its guard sweeps after a kill
        if process.poll() is None:
            ask()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue


def one_run(folder: Path, rounds: int, parts: list[str], keys: Path, draws: np.random.Generator) -> Diary:
    """Run to the end, killing these parts on the way, as many as there is time for."""
    diary, log = Diary(), folder.with_suffix(".txt")  # flotilla itself may write a .log
    process = start(folder, rounds, log, keys, resume=False)
    try:
        while True:
            one_incarnation(process, folder, parts, diary, draws, log)
            if process.returncode == 0:
                return diary
            if not diary.interrupted:
                raise AssertionError(f"the run failed by itself\n{log.read_text(errors='replace')[-6000:]}")
            diary.resumed()
            process = start(folder, rounds, log, keys, resume=True)
    finally:
        end(process)


def one_incarnation(
    process: subprocess.Popen[bytes],
    folder: Path,
    parts: list[str],
    diary: Diary,
    draws: np.random.Generator,
    log: Path,
) -> None:
    """Kill parts until the federation ends, which it does when it has finished or its ServerApp is dead."""
    federation, due, before = Federation(process.pid), float("inf"), log.read_bytes().count(b"run folder:")
    while process.poll() is None:
        now = time.monotonic()
        if now - diary.began > LIMIT:
            raise AssertionError(f"not over after {LIMIT:.0f} s\n{log.read_text(errors='replace')[-6000:]}")
        diary.see(len(rows(folder)))
        if due == float("inf") and log.read_bytes().count(b"run folder:") > before:
            due = now + draws.uniform(0, 25)
        count = len(diary.kills)
        if now >= due and count < len(parts) and not diary.interrupted:
            found = federation.kill(parts[count], draws)
            if found is None:
                continue  # the run has ended meanwhile
            done = len(rows(folder))
            diary.kills.append(
                Kill(
                    part=parts[count],
                    node=found.node,
                    at=time.monotonic(),
                    number=done + 1,
                    incarnation=diary.incarnation,
                )
            )
            print(f"    {diary.kills[-1]}, {found.moment}", flush=True)
            due = time.monotonic() + draws.uniform(3, 15)
        time.sleep(0.1)
    diary.see(len(rows(folder)))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics that are there, without a line that is being written."""
    file = folder / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def replay(deployed: Path, folder: Path, rounds: int) -> Outcome:
    """The same run in process: the same nodes in every round, the same replies missing."""
    history = {row["round"]: row for row in rows(deployed)}
    missing = {(number, node) for number, row in history.items() for node in lost_in(row)}

    class Recorded(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            present = history[min(len(rows(folder)) + 1, rounds)]["selected"]
            return [address_of(node) for node in sorted(present)]

    def faults(request: Message, reply: Message) -> list[Message]:
        lost = any(trains(request, node, [number]) for number, node in missing)
        return [failed(request)] if lost else [reply]

    typed: Faults = faults
    return play(folder, typed, grid=Recorded, **KEYS, tier_assignment="fixed", num_server_rounds=rounds)


def _stopped(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that `finally` ends the federation


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill parts of a deployed federation.")
    parser.add_argument("kills", nargs="?", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8, help="of every run")
    parser.add_argument("--in-a-run", type=int, default=8, help="at most so many kills in one run")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stopped)
    draws = generator(options.seed, 0, "server", "kills")
    parts, trial, seen, lost, began = order(options.kills, draws), 0, Counter[str](), Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trials-") as home:
        keys = Path(home) / "keys"
        make_keys(keys, NODES)
        while seen.total() < options.kills:
            trial += 1
            folder, start_of_run = Path(home) / f"run-{trial}", time.monotonic()
            left = parts[seen.total() :]
            diary = one_run(folder, options.rounds, left[: options.in_a_run], keys, draws)
            costs = diary.check(rows(folder), NODES)
            copy = replay(folder, Path(home) / f"replay-{trial}", options.rounds)
            assert [row["selected"] for row in copy.rows] == [row["selected"] for row in rows(folder)]
            assert copy.hash == Outcome(folder, {}, []).hash, f"run {trial}: the model is another"
            seen.update(kill.part for kill in diary.kills)
            lost.update(costs)
            print(
                f"run {trial}: {len(diary.kills)} kills, replies lost: {_listed(costs) or 'none'}; final model equal; "
                f"{time.monotonic() - start_of_run:.0f} s, {seen.total()} of {options.kills} kills",
                flush=True,
            )
    for part in PARTS:
        print(f"{part}: {seen[part]} kills, {lost[part]} replies lost")
    print(f"all equal: {seen.total()} kills in {trial} runs, {time.monotonic() - began:.0f} s")


def _listed(costs: Counter[str]) -> str:
    return ", ".join(f"{count} by {part}" for part, count in sorted(costs.items()))


if __name__ == "__main__":
    main()
