"""A device of 1 GB that trains on 5,000 pictures of 224 x 224: what it takes, and how often a picture is decoded.

One SuperNode with JPEGs of its own, a server without data, our executor; the executor and the ClientApps that it forks
have 1 GB of memory between them (a control group where one can be made, else a limit on private memory), with torch and
flwr. What a ClientApp needs for itself is compared with parameters, shard and batch.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.document import DOCS, ROOT, replace_part, table
from benchmarks.machine import machine
from benchmarks.task import Command, Options
from flotilla.deploy.deployment import Deployment
from flotilla.deploy.federation import prepare_federation
from flotilla.superlink.run import run_on

DOCUMENT = DOCS / "data.md"
PICTURES, SIDE, LIMIT, BATCH, ROUNDS = 5000, 224, 2**30, 16, 1
MOST = 1.3  # of parameters, shard and batch
_CONFIG = (
    'dataset="image-folder" partition="own" image-size={side} method="fedavg" tiers="a:1"'
    ' model="cnn" widths="8, 8" norm="group"'
    " num-server-rounds={rounds} local-epochs=1 batch-size={batch} num-clients=1 min-nodes=1"
    " fraction-evaluate=1.0 evaluate-every=1"
)
_LOOK = 0.02  # seconds


@dataclass(slots=True, kw_only=True)
class Seen:
    """The most that was seen of the ClientApps of a run, in bytes.

    Attributes:
        own: not shared with the executor, in one process: what it wrote and what it mapped.
        written: of that, what is in no file, which the system cannot drop.
        resident: shared or not.
        executor: resident, with torch and flwr, before the first message.
        group: of executor and ClientApps, as the control group counts it; 0 where there is none.
        processes: ClientApps, one for each message.
        decoded: pictures that were decoded, as the ClientApps say it.
    """

    own: int = 0
    written: int = 0
    resident: int = 0
    executor: int = 0
    group: int = 0
    processes: set[int] = field(default_factory=set)
    decoded: int = 0


def make_pictures(folder: Path, count: int, side: int) -> None:
    """Write JPEGs of two classes: smooth noise, brighter at the top or at the bottom."""
    draws = np.random.default_rng(0)
    ramp = np.linspace(-60, 60, side, dtype=np.float32)[:, None, None]
    for number in range(count):
        label = number % 2
        coarse = draws.integers(60, 196, (14, 14, 3), dtype=np.uint8)
        noise = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = np.clip(noise + (ramp if label else -ramp), 0, 255).astype(np.uint8)
        place = folder / ("bottom" if label else "top")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:05}.jpg", quality=85)


def board(
    pictures: int = PICTURES, side: int = SIDE, *, limit: int = LIMIT, batch: int = BATCH, rounds: int = ROUNDS
) -> Seen:
    """Run the federation; what was seen.

    Raises:
        RuntimeError: the run failed.
    """
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="board-") as folder, _group(limit) as group:
        home = Path(folder)
        make_pictures(home / "device/0", pictures, side)
        config = _CONFIG.format(side=side, rounds=rounds, batch=batch)
        settings = prepare_federation(ROOT, [config], nodes=1, run_dir=home / "run", resume=None)
        make = partial(_Board, data=home / "device", group=group, limit=limit, seen=seen, cache=home / "cache")
        code = run_on(make, settings, {}, verbose=False)
        if group is not None:
            seen.group = _number(group / "memory.max_usage_in_bytes") or _number(group / "memory.peak")
    if code:
        raise RuntimeError(f"the federation ended with {code}")
    return seen


class _Board(Deployment):
    """One node without TLS, whose executor and ClientApps are limited and watched."""

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        started: Any,
        *,
        data: Path,
        group: Path | None,
        limit: int,
        seen: Seen,
        cache: Path,
    ) -> None:
        self._group, self._limit, self._seen = group, limit, seen
        super().__init__(home, {**env, "FLOTILLA_CACHE": str(cache)}, started, tiers=["a"], keys=None, data=data)

    def _start_executor(self, group: int) -> Popen[bytes]:
        process = super()._start_executor(group)
        threading.Thread(target=_watch, args=(process, self._seen), daemon=True).start()
        return process

    def _start(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
        if any(part.endswith("executor.py") for part in command):
            enter = (
                f"ulimit -d {self._limit // 1024}" if self._group is None else f"echo $$ > {self._group}/cgroup.procs"
            )
            command = ["sh", "-c", f'{enter} && exec "$@"', "sh", *command]
        return super()._start(command, log, env)

    def close(self) -> None:
        """Count what the ClientApps say that they decoded."""
        super().close()
        text = self._clients_log.read_text(errors="replace") if self._clients_log.exists() else ""
        self._seen.decoded = sum(int(found) for found in re.findall(r"decoded (\d+) examples", text))


@contextmanager
def _group(limit: int) -> Iterator[Path | None]:
    """A control group with so much memory, of either version; None where none can be made."""
    found: Path | None = None
    for parent, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = parent / f"flotilla-board-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            (group / name).write_text(str(limit))
            found = group
            break
    try:
        yield found
    finally:
        if found is not None:
            for _ in range(100):  # until its last process is gone
                with suppress(OSError):
                    found.rmdir()
                    break
                time.sleep(0.1)


def _watch(executor: Popen[bytes], seen: Seen) -> None:
    """Look at the ClientApps of an executor as long as it is there: forked from its app's process, which counts too."""
    while executor.poll() is None:
        with suppress(OSError, ValueError, StopIteration):  # it ended meanwhile
            apps = _children(executor.pid)
            if not apps and not seen.processes:
                seen.executor = max(seen.executor, _status(executor.pid, "VmRSS"))
            for pid in [*apps, *(client for app in apps for client in _children(app))]:
                seen.processes.add(pid)
                with suppress(OSError, StopIteration, KeyError):
                    seen.resident = max(seen.resident, _status(pid, "VmHWM"))
                    private = _rollup(pid)
                    seen.own = max(seen.own, sum(private.values()))
                    seen.written = max(seen.written, private["Private_Dirty"])
        time.sleep(_LOOK)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _rollup(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: 1024 * int(size) for name, size in re.findall(r"^(Private_\w+): +(\d+) kB", text, re.M)}


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def ratio(seen: Seen, pictures: int, side: int, batch: int) -> float:
    """What a ClientApp had for itself, of shard and batch; the network's parameters are 20 kB."""
    return seen.own / (pictures * 3 * side**2 + 4 * batch * 3 * side**2)


def _run(options: Options) -> int:
    """Run, print, write; 1 if it takes more than it may, or decodes more than once."""
    seen = board(rounds=options.rounds)
    found = ratio(seen, PICTURES, SIDE, BATCH)
    shard, inputs = PICTURES * 3 * SIDE**2, 4 * BATCH * 3 * SIDE**2
    lines = [
        ["shard, as it is stored", f"{shard / 1e6:,.0f}"],
        ["a batch of inputs", f"{inputs / 1e6:,.0f}"],
        ["a ClientApp, not shared with the executor, at most", f"{seen.own / 1e6:,.0f}"],
        ["**of shard and batch**", f"**{found:.2f}**"],
        ["… of it in no file", f"{seen.written / 1e6:,.0f}"],
        ["a ClientApp, resident, with what the executor has imported", f"{seen.resident / 1e6:,.0f}"],
        ["executor, resident", f"{seen.executor / 1e6:,.0f}"],
        ["executor and ClientApps together, as limited", f"{seen.group / 1e6:,.0f}"],
        ["ClientApps, one for each message", str(len(seen.processes))],
        ["pictures decoded", f"{seen.decoded:,}"],
    ]
    print(table(["MB", ""], lines))
    if options.write:
        replace_part(DOCUMENT, "board", f"{table(['MB', ''], lines, markdown=True)}\n\n{machine()}.")
    return 0 if found <= MOST and seen.decoded == PICTURES else 1


TASK = Command(_run, defaults={"rounds": ROUNDS, "write": False})
