"""Ray that is started ahead: whose children its workers are, what they have, and that nothing outlives the process."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flotilla.flwr_compat import app_process, ray_ahead
from flotilla.superlink.processes import marked, sweep

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

PROGRAM = """
import json, os, sys, threading
from pathlib import Path
from flotilla.flwr_compat.ray_ahead import RayAhead

ahead = RayAhead(2, Path(os.environ["RAY_TMPDIR"]))
import torch
sys.path.insert(0, os.environ["LAB"])
ahead.offer_workers()
assert ahead.connect()
import ray

@ray.remote(num_cpus=1)
class Actor:
    def tell(self):
        torch_was_there = "torch" in sys.modules
        import lab, torch
        print("a worker speaks", flush=True)
        return [os.getpid(), os.getppid(), torch_was_there, torch.get_num_threads(), lab.value, os.environ["MINE"]]

told = ray.get([actor.tell.remote() for actor in [Actor.remote(), Actor.remote()]])
print(json.dumps({"me": os.getpid(), "told": told, "cpus": ray.cluster_resources()["CPU"]}), flush=True)
sys.stdin.readline()
os._exit(0)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets have short names
        yield Path(folder)
        sweep(lambda: marked("FLWR_HOME", folder))


def started(home: Path, first: str = "") -> subprocess.Popen[str]:
    (home / "lab.py").write_text("value = 5\n")
    environment = {**os.environ, "RAY_TMPDIR": str(home), "FLWR_HOME": str(home), "LAB": str(home), "MINE": "7"}
    environment.pop("OMP_NUM_THREADS", None)
    code = PROGRAM.replace("\nahead =", f"\n{first}\nahead =")
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise AssertionError("it ended before")


@pytest.mark.parametrize("killed", [False, True])
def test_workers_come_from_a_copy_of_the_process_and_nothing_stays(home: Path, killed: bool) -> None:
    with started(home) as process:
        said = told(process)
        pids, parents, loaded, threads, values, variables = zip(*said["told"], strict=True)
        assert said["cpus"] == 2
        assert len(set(pids)) == 2
        assert len(set(parents)) == 1
        assert parents[0] != said["me"]
        assert loaded == (True, True)
        assert threads == (1, 1)
        assert values == (5, 5)
        assert variables == ("7", "7")
        if killed:
            process.kill()
        else:
            process.communicate("\n")
        process.wait(60)
    deadline = time.monotonic() + 120  # Ray's processes look for their parent's when they have the time
    while left := marked("FLWR_HOME", str(home)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_worker_becomes_one_itself_where_nobody_answers(home: Path) -> None:
    with started(home, "import flotilla.flwr_compat.ray_ahead as r; r._be_nursery = lambda *_: None") as process:
        said = told(process)
        assert {(value, variable) for *_, value, variable in said["told"]} == {(5, "7")}
        process.communicate("\n")


def test_ray_is_what_it_is_taken_for() -> None:
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
    from ray._private import node, parameter, services

    assert {"worker_path", "no_monitor", "include_dashboard", "num_cpus"} <= set(
        inspect.signature(parameter.RayParams).parameters
    )
    assert "ray_params" in inspect.signature(node.Node).parameters
    assert "self._webui_url, process_info = ray._private.services.start_api_server(" in inspect.getsource(node.Node)
    assert callable(services.start_api_server)
    assert "if not ray.is_initialized():" in inspect.getsource(RayBackend.init_ray)  # else flwr would start another
    assert (Path(inspect.getfile(services)).parent / "workers" / "default_worker.py").is_file()
    assert ray_ahead._WORKER.is_file()


def test_nothing_imports_ray_before_workers_are_offered() -> None:
    """Else the head start is lost without a word: Ray's environment has to be set before it is imported."""
    steps = inspect.getsource(app_process.main)
    offered = steps.index("_is_up(ahead)")
    for module in ("quick_simulation", "ray_arrays", "ray_backend"):
        assert offered < steps.index(f'_beside("{module}")')
