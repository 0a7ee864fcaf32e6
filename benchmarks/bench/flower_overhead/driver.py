"""Start the probed app through `flotilla run`, and take turns with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.bench.flower_overhead import ADDRESS
from benchmarks.document import ROOT
from protocol import Scalar

_PACKAGES = ("models", "protocol", "data", "strategies", "client_app", "server_app")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round of ours took.

    Attributes:
        whole: wall seconds from the end of the last one to the end of this one.
        phases: wall seconds by phase.
        computing: flwr node id → CPU seconds in forward, backward and optimiser.
        steps: optimiser steps of all nodes.
        down, up: bytes of arrays sent to nodes and by them.
    """

    whole: float
    phases: Mapping[str, float]
    computing: Mapping[int, float]
    steps: int
    down: int
    up: int


class Pause:
    """The time between two rounds of a probed run."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    def burn(self, computing: Mapping[int, float]) -> float:
        """Let the nodes burn so many seconds of CPU time in a round of their own; returns its wall seconds."""
        self._server.send(dict(computing))
        return float(self._server.recv())


def probed_run(
    keys: Mapping[str, Scalar],
    rounds: int,
    pause: Callable[[Round, Pause], None],
    *,
    before: int = 1,
    begin: Callable[[int], None] = lambda _: None,
    run_folder: Path | None = None,
    timeout: float = 600.0,
) -> None:
    """Run a configuration under Ray through `flotilla run`, with a pause after each round but the first ones.

    Args:
        keys: run settings.
        rounds: to be measured.
        pause: what happens in a pause.
        before: so many more rounds before them; the very first one meets the nodes and makes the models.
        begin: what happens before all rounds; is told how many numbers the server's state has.
        run_folder: where the run is kept; None: nowhere.
        timeout: seconds for the whole run.

    Raises:
        RuntimeError: the run failed.
    """
    with tempfile.TemporaryDirectory(prefix="probe-") as folder, _listener(Path(folder)) as listener:
        app = probed_app(Path(folder) / "app")
        settings = {**keys, "num-server-rounds": rounds + before}
        text = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        command = [sys.executable, "-m", "flotilla", "run", str(app), "--run-config", text]
        command += ["--run-dir", str(run_folder or Path(folder) / "run")]
        env = {**os.environ, ADDRESS: str(listener.address)}
        run = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        server = Thread(target=_take_turns, args=(listener, pause, before, begin), daemon=True)
        server.start()
        try:
            output, _ = run.communicate(timeout=timeout)
        except BaseException:
            run.terminate()  # flotilla ends everything that it started
            run.wait()
            raise
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}:\n{output[-3000:]}")
        server.join(timeout=10)


@contextmanager
def _listener(folder: Path) -> Iterator[Listener]:
    with Listener(str(folder / "socket")) as listener:
        yield listener


def _take_turns(
    listener: Listener, pause: Callable[[Round, Pause], None], before: int, begin: Callable[[int], None]
) -> None:
    with listener.accept() as server:
        begin(int(server.recv()))
        server.send(None)
        for ended in count(1):
            try:
                said: dict[str, Any] = server.recv()
            except EOFError:
                return
            if ended > before:
                if said["accepted"] != said["selected"]:
                    raise RuntimeError(f"only {said['accepted']} of {said['selected']} clients answered")
                pause(Round(**{field: said[field] for field in Round.__dataclass_fields__}), Pause(server))
            server.send(None)


def probed_app(folder: Path) -> Path:
    """Our app with the probe's components in the place of its own."""
    folder.mkdir()
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in _PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    (folder / "probe").mkdir()
    for name in ("__init__.py", "server.py", "client.py"):
        shutil.copyfile(Path(__file__).with_name(name), folder / "probe" / name)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    changes = {'"/server_app/**/*.py",': '"/server_app/**/*.py", "/probe/**/*.py",'}
    changes |= {f'= "{half}_app.app:app"': f'= "probe.{half}:app"' for half in ("server", "client")}
    for before, after in changes.items():
        if project.count(before) != 1:
            raise RuntimeError(f"pyproject.toml should have {before} once")
        project = project.replace(before, after)
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    return folder
