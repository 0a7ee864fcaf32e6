"""`flotilla run --cluster` on two raylets that share no files, and what becomes of runs whose workers are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.e2e.raylets import ROOT, TwoRaylets

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(2400)]
SECONDS = 600
# EF21 keeps what a device could not send: a client's own state must survive a worker too.
SETTINGS = (
    'model="mlp" widths="64, 32" num-clients=12 num-server-rounds=6 tiers="wide:1, narrow:1/2" local-epochs=40 '
    'codec="ef21" tier-assignment="fixed"'
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoRaylets]:
    found = TwoRaylets()
    try:
        yield found
    finally:
        found.close()


def started(folder: Path, *more: str, settings: str = SETTINGS, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "flotilla", "run", str(ROOT), "--run-dir", str(folder), "-c", settings, *more]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    with Path(f"{folder}.out").open("w") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True, cwd="/")


def said(folder: Path) -> str:
    return Path(f"{folder}.out").read_text()


def finished(folder: Path, *more: str, settings: str = SETTINGS, **environment: str) -> str:
    """Run to the end; what was said."""
    assert started(folder, *more, settings=settings, **environment).wait(SECONDS) == 0, said(folder)
    return said(folder)


def wait_for(words: str, folder: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while words not in said(folder):
        assert time.monotonic() < deadline, said(folder)
        time.sleep(0.05)


def fingerprint(folder: Path) -> str:
    """The model's hash; printed, with what was said of nodes and workers (`pytest -s`)."""
    found = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    told = [line for line in said(folder).splitlines() if "cluster:" in line or "worker was lost" in line]
    print(f"\n{folder.name}: {found}", *told, sep="\n  ")
    return found


def replies(folder: Path) -> list[int]:
    return [json.loads(line)["accepted"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on this machine alone."""
    folder = tmp_path_factory.mktemp("one-machine") / "run"
    finished(folder)
    return folder


def test_two_nodes_without_common_files_and_one_that_is_gone(
    cluster: TwoRaylets, undisturbed: Path, tmp_path: Path
) -> None:
    cluster.start_second()
    out = finished(tmp_path / "cluster", "--cluster", cluster.address)
    assert "cluster: first" in out
    assert "cluster: second" in out
    assert "left out" not in out
    assert fingerprint(tmp_path / "cluster") == fingerprint(undisturbed)
    assert json.loads((tmp_path / "cluster" / "config.json").read_text())["config"]["client-state"] == ""

    run = started(tmp_path / "killed", "--cluster", "auto", RAY_ADDRESS=cluster.address)
    wait_for("round 2/6", tmp_path / "killed")
    cluster.kill_second()
    assert run.wait(SECONDS) == 0, said(tmp_path / "killed")
    assert "a worker was lost" in said(tmp_path / "killed")
    assert fingerprint(tmp_path / "killed") == fingerprint(undisturbed)
    assert replies(tmp_path / "killed") == replies(undisturbed)


def test_a_node_without_the_data_is_left_out_and_without_any_the_run_fails(cluster: TwoRaylets, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    x, y = draw.integers(0, 255, (240, 8, 8), dtype=np.uint8), np.arange(240) % 4
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "own.npz", x=x, y=y)
    settings = 'dataset="npz:own.npz" model="mlp" widths="16, 8" num-clients=4 num-server-rounds=1 tiers="a:1, b:1/2"'
    data = str(tmp_path / "data")
    finished(tmp_path / "one", "--engine", "local", "--processes", "0", settings=settings, FLOTILLA_DATA=data)

    cluster.start_second()
    out = finished(tmp_path / "two", "--cluster", cluster.address, settings=settings, FLOTILLA_DATA=data)
    (line,) = [line for line in out.splitlines() if "left out" in line]
    assert "second" in line
    assert "own.npz" in line
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")

    nowhere = ("--cluster-env", "FLOTILLA_DATA=/nowhere")
    run = started(tmp_path / "no", "--cluster", cluster.address, *nowhere, settings=settings, FLOTILLA_DATA=data)
    assert run.wait(SECONDS) == 1
    last = [line for line in said(tmp_path / "no").splitlines() if "the run failed" in line][-1]
    assert "no node of the cluster can run clients" in last
    assert "first" in last
    assert "second" in last


def test_a_worker_of_one_machine_that_is_killed_is_replaced(undisturbed: Path, tmp_path: Path) -> None:
    run = started(tmp_path / "run", "--processes", "1")
    wait_for("round 2/6", tmp_path / "run")
    own = [found for found in psutil.process_iter() if _is_actor_of(found, run.pid)]
    own[0].kill()
    assert run.wait(SECONDS) == 0, said(tmp_path / "run")
    assert "there is another in its place" in said(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(undisturbed)
    assert replies(tmp_path / "run") == replies(undisturbed)


def _is_actor_of(process: psutil.Process, flotilla: int) -> bool:
    """Whether a process is a worker of the run of a `flotilla` process: it has Ray's title, or is forked twice."""
    try:
        here = f"/flotilla-{flotilla}-" in process.cwd()
        forked = all("app_process" in "".join(one.cmdline()) for one in [process, *process.parents()[:2]])
        return here and (forked or "ClientAppActor" in "".join(process.cmdline()))
    except psutil.Error:
        return False
