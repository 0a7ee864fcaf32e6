"""What a run imports before its first round: seconds that everybody waits for, in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from flotilla.local.start import prepare_workers

# Each takes between half a second and four, and the default job trains without any.
HEAVY = (
    "datasets",
    "flwr_datasets",
    "matplotlib",
    "onnx",
    "pandas",
    "ray",
    "scipy",
    "sklearn",
    "sympy",
    "torch._dynamo",
)
PROGRAM = """
import sys
from flotilla.local.grid import LocalGrid, contexts
from client_app.app import app
from protocol import record_of
from server_app.config.resolve import resolve
from server_app.tier_records import costs_of

config = resolve({"num-server-rounds": 1, "num-clients": 2, "local-epochs": 1, "dataset": "digits"})
strategy = config.strategy()
strategy.start(LocalGrid(app, contexts(config.flat, 2)), record_of(strategy.state), 1)
assert strategy.report.accepted == 2
assert all(cost["macs"] for cost in costs_of(strategy, {}).values())
print(*sorted(set(HEAVY) & set(sys.modules)))
"""


# What begins a run, process by process: what it imports, and what it does without. PyTorch and Flower themselves take
# two seconds of CPU in each process, so that the command line answers before either is there.
PROCESSES = {
    "the command": ("flotilla.cli", {*HEAVY, "flwr", "grpc", "httpx", "numpy", "torch"}),
    "what the command starts Flower with": (
        "flotilla.superlink.run",
        {*HEAVY, "flwr", "grpc", "httpx", "numpy", "torch"},
    ),
    "the check of settings": ("server_app.config.resolve", {*HEAVY, "client_app", "fastapi", "sqlalchemy"}),
    "the server's half, in process": ("server_app.run", {*HEAVY, "client_app", "fastapi", "sqlalchemy"}),
    "the server's half, as Flower loads it": ("server_app.app", {*HEAVY, "client_app"}),
    "the clients' half": ("client_app.app", {*HEAVY, "fastapi", "server_app", "sqlalchemy", "strategies"}),
    "the process that workers are forked from": (
        "flotilla.local.preloaded",
        {*HEAVY, "fastapi", "server_app", "sqlalchemy", "strategies"},
    ),
}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_starts_without(process: str, pytestconfig: pytest.Config) -> None:
    module, without = PROCESSES[process]
    program = f"import sys, {module}; print(*sorted({without!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("module", ["flotilla.cli", "flotilla.superlink.run"])
def test_the_command_imports_hardly_anything_of_others(module: str, pytestconfig: pytest.Config) -> None:
    """Whatever else comes in between command and answer has to be put on the list here."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    ours = names[names.index("site") + 1 :]  # before that an environment's own, by .pth files
    # Python's own pickle tries Jython's `org`, in vain.
    packages = {name.partition(".")[0] for name in ours} - sys.stdlib_module_names - {"org"}
    assert "flotilla" in packages
    assert packages <= {"click", "flotilla", "psutil", "shellingham", "typer"}


def test_a_round_imports_nothing_heavy(pytestconfig: pytest.Config) -> None:
    program = PROGRAM.replace("HEAVY", repr(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned elsewhere")
def test_workers_are_forked_from_a_process_that_has_imported_what_they_need() -> None:
    context = prepare_workers()
    ours, theirs = context.Pipe()
    process = context.Process(target=_tell, args=(theirs,))
    process.start()
    loaded, parent = ours.recv()
    process.join()
    assert loaded
    assert parent != os.getpid()  # but the fork server


@pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned elsewhere")
def test_the_fork_server_takes_nothing_apart_when_it_ends(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    # A module that says so when it is taken apart: at the latest when Python ends, unless it does not come to that.
    (tmp_path / "kept.py").write_text(
        """
class Kept:
    def __del__(self):
        print("taken apart", flush=True)

kept = Kept()
kept.itself = kept
"""
    )
    program = """
from flotilla.local.start import prepare_workers
context = prepare_workers("kept")
process = context.Process(target=print, args=("done",), daemon=True)
process.start()
process.join()
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{pytestconfig.rootpath}"}
    done = subprocess.run(  # whose output is at its end when the fork server has closed it, too
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.split("\n") == ["done", ""]


def _tell(pipe: Connection) -> None:
    pipe.send(("client_app.app" in sys.modules, os.getppid()))


def test_only_a_fork_server_ends_without_ceremony(pytestconfig: pytest.Config) -> None:
    """Anybody else who imports that module, such as a tool that imports all, still says what it has to say."""
    program = "import sys, flotilla.local.unceremonious; print('said'); sys.exit(3)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("said\n", 3)
