"""A sweep through the command itself: killed, stopped, gone on with; the same models as runs by themselves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from unittest.mock import patch

import pytest
from torch import get_num_threads
from typer.testing import CliRunner

from flotilla.cli import app
from flotilla.own_app import own_app
from flotilla.studies.one_run import THREADS
from flotilla.studies.plan import read_plan
from flotilla.studies.sweep import Folder, run_sweep, settings_of
from models.device import threads
from server_app.folder.lock import RunLock
from tests.support import play

SWEEP = """
[settings]
dataset = "digits"
model = "mlp"
widths = "16, 16"
num-clients = 4
num-server-rounds = 6
tiers = "a:1, b:1/2"
device = "cpu"

[grid]
method = ["heterofl", "fedrolex", "fedavg"]
seed = [1, 2, 3]
"""


def state_of(place: Path) -> list[str]:
    """Status of every run that has a summary."""
    return [
        json.loads(file.read_text())["status"]
        for file in place.glob("runs/*/summary.json")
        if not file.parent.is_symlink()
    ]


def hashes(place: Path) -> dict[str, str]:
    runs = [file for file in place.glob("runs/*/summary.json") if not file.parent.is_symlink()]
    return {file.parent.name: json.loads(file.read_text())["model"]["sha256"] for file in runs}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "three.toml").write_text(SWEEP, encoding="utf-8")
    command = [sys.executable, "-m", "flotilla", "sweep", "three.toml", "--folder", "swept", *words]
    # Threads as where nobody says how many: more than the one that a run has.
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    until = monotonic() + seconds
    while not condition():
        assert monotonic() < until
        sleep(0.2)


def test_a_wrong_setting_names_the_run_and_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[settings]\nlearning-rat = 0.1\n[grid]\nseed = [1]\n", encoding="utf-8")
    out = CliRunner().invoke(app, ["sweep", str(file), "--folder", str(tmp_path / "swept")])
    assert out.exit_code == 2
    assert "run, seed 1: learning-rat = 0.1: no such setting; did you mean" in out.stderr
    assert not (tmp_path / "swept").exists()


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text(SWEEP, encoding="utf-8")
    place = tmp_path / "swept"
    place.mkdir()
    holder = subprocess.Popen(["sleep", "60"])
    try:
        held = RunLock(place)
        with patch("os.getpid", return_value=holder.pid):
            held.take("folder")
        out = CliRunner().invoke(app, ["sweep", str(tmp_path / "three.toml"), "--folder", str(place)])
        assert out.exit_code == 2
        assert f"allowed is a folder that no run uses: pid {holder.pid}" in out.stderr.replace("\n", " ")
    finally:
        holder.kill()
        holder.wait()


def test_all_runs_are_listed_though_only_some_may_be_run(tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text(SWEEP)
    cells, folder = read_plan(tmp_path / "three.toml"), Folder(path=tmp_path / "swept")
    folder.write(cells)
    folder.failure(cells[0]).write_text(json.dumps({"why": "no memory left", "code": 1}))
    progress = run_sweep(folder, cells, own_app(), jobs=1, processes=0, only=[], retry=True)
    assert (progress.cells, progress.failed, progress.rounds) == (9, 1, 0)
    assert len(json.loads((folder.path / "sweep.json").read_text())["runs"]) == 9
    assert list(folder.path.glob("runs/*")) == []


def test_what_there_is_to_do_is_listed(tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text(SWEEP, encoding="utf-8")
    out = CliRunner().invoke(
        app, ["sweep", str(tmp_path / "three.toml"), "--list", "--folder", str(tmp_path / "swept")]
    )
    assert out.exit_code == 0
    assert out.stdout.count("to do") == 9


def test_a_run_goes_on_though_the_sweep_has_more_threads_than_it(tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text(SWEEP, encoding="utf-8")
    cell, folder = read_plan(tmp_path / "three.toml")[0], Folder(path=tmp_path / "swept")
    keys: dict[str, Any] = {**cell.keys, "num-server-rounds": 2}
    with threads(THREADS):
        play(folder.run(cell), **keys)
    (folder.run(cell) / "summary.json").unlink()  # it was killed
    with threads(THREADS + 1):
        assert settings_of(folder, cell, own_app(), ()).config["resume"] == str(folder.run(cell))
        assert get_num_threads() == THREADS + 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_that_was_killed_and_stopped_comes_to_the_same(tmp_path: Path) -> None:
    swept = tmp_path / "swept"
    for ends, signum in enumerate((signal.SIGKILL, signal.SIGINT), 1):
        process = start(tmp_path)
        wait_until(partial(_far_enough, process, swept, 2 * ends))
        process.send_signal(signum)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == (-9 if signum == signal.SIGKILL else 130), said
    process = start(tmp_path)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert re.search(
        r"^\[\d/9 runs\] to do: \d runs, [12] side by side(; \d of them from the last checkpoint)?$", said, re.M
    )
    assert "9 of 9 runs finished in swept; flotilla compare swept" in said
    found = hashes(swept)
    assert len(found) == 9
    name = next(name for name in found if name.startswith("fedrolex-seed-2"))
    assert "seconds of the processor" in (swept / "logs" / f"{name}.log").read_text(encoding="utf-8")
    settings = [line for line in SWEEP.splitlines() if " = " in line and not line.startswith(("method", "seed"))]
    keys = " ".join(line.replace(" = ", "=") for line in [*settings, 'method = "fedrolex"', "seed = 2"])
    command = [sys.executable, "-m", "flotilla", "run", "--engine", "local", "--run-dir", "alone", "-c", keys]
    alone = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, check=False)
    assert alone.returncode == 0
    assert json.loads((tmp_path / "alone/summary.json").read_text())["model"]["sha256"] == found[name]


def _far_enough(process: subprocess.Popen[str], swept: Path, finished: int) -> bool:
    return state_of(swept).count("finished") >= finished or process.poll() is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_fails_is_kept_apart_until_it_is_tried_again(tmp_path: Path) -> None:
    file, package = tmp_path / "two.toml", tmp_path / "broken"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from strategies import FedAvg\n\nclass Broken(FedAvg):\n    def plan(self, context, node, tier):\n"
        "        raise RuntimeError('it broke')\n",
        encoding="utf-8",
    )
    file.write_text(
        '[settings]\nmodel = "mlp"\nnum-clients = 2\nnum-server-rounds = 1\ntiers = "a:1"\n'
        '[rows.good]\n[rows.bad]\nmethod = "broken:Broken"\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "flotilla", "sweep", str(file), "--folder", str(tmp_path / "swept")]
    command += ["--with", str(package)]
    tried = []
    for words in ([], [], ["--retry"]):
        out = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        assert out.returncode == 1, out.stdout + out.stderr
        assert "1 of 2 runs finished" in out.stdout
        assert "1 failed" in out.stderr
        tried.append(out.stdout.count("failed: bad: RuntimeError: it broke"))
    assert tried == [1, 0, 1]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True).stdout
    assert "  failed: RuntimeError: it broke" in listed
