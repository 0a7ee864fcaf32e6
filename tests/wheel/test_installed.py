"""A wheel of the project in an environment that has nothing else, used from another directory; `make test-wheel`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from build_hooks.rename import Renamer
from build_hooks.wheel import MOVED, PARENT
from tests.wheel.environment import Environment

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parents[2]
SHORT = 'num-server-rounds=2 num-clients=4 model="mlp" widths="16, 8" local-epochs=1 batch-size=128'
# What is tested against the installed package: parity with the authors' rules, the algebra, frames.
PART = [
    "tests/parity/test_heterofl.py",
    "tests/parity/test_fedavg.py",
    "tests/models/algebra",
    "tests/protocol/test_frames.py",
]

PYPROJECT = """
[project]
name = "their-app"
version = "1.0.0"
license = {file = "LICENSE"}
dependencies = ["flwr[simulation]>=1.41.0"]
[tool.flwr.app]
publisher = "them"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "theirs.server:app"
clientapp = "theirs.client:app"
[tool.flwr.app.config]
num-clients = 3
rounds = 2
"""
SERVER = """
from flotilla.models.networks.build import build
from flotilla.strategies import HeteroFL, NetworkSpec
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    network = NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8))
    method = HeteroFL(network, **{"label-rows": False})
    before = ArrayRecord(build(method.network).state_dict())
    result = method.start(grid, before, num_rounds=context.run_config["rounds"])
    moved = max(abs(result.arrays[name].numpy() - before[name].numpy()).max() for name in before)
    print("THEIRS", sorted(result.train_metrics_clientapp), f"{moved:.3f}")
"""
CLIENT = '''
"""Devices of somebody else's make, that add 1 to whatever they hold."""
import torch
from flotilla.models.networks.build import submodel
from flotilla.protocol import Hello, Reply, TrainRequest, encode, read_request
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("hello")
def hello(message, context):
    said = Hello(node=str(context.node_config["partition-id"]), examples=10)
    return Message(said.to_record(), reply_to=message)


@app.train("part")
def train(message, context):
    request, state = read_request(TrainRequest, message.content)
    part = submodel(request.network, request.plan)
    reply = Reply(request.nonce, encode(torch.ones(part.numel)), {"num-examples": 10.0})
    return Message(reply.to_record(), reply_to=message)
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel that `make wheel` builds, from the sdist, installed."""
    dist = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    environment = Environment(ROOT / ".venv-wheel")  # beside .venv, so that files can be linked
    environment.install(next(dist.glob("*.whl")))
    return environment


def said(command: list[str], folder: Path) -> str:
    """Run a command there, with nothing of ours in its environment; what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL"))}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_one_name_to_import(installed: Environment, tmp_path: Path) -> None:
    code = f"""
import json
from importlib.util import find_spec
from flotilla.strategies import HeteroFL, NetworkSpec
import flotilla.client_app.app, flotilla.models, flotilla.server_app.app
names = [*{MOVED!r}, "tests", "benchmarks", "build_hooks"]
print(json.dumps([flotilla.__file__, HeteroFL.__module__, [name for name in names if find_spec(name)]]))
"""
    file, module, others = json.loads(said([installed.python, "-c", code], tmp_path).splitlines()[-1])
    assert Path(file).is_relative_to(ROOT / ".venv-wheel")
    assert module == "flotilla.strategies.methods.heterofl"
    assert others == []


def test_nothing_is_left_out_of_the_package(installed: Environment, tmp_path: Path) -> None:
    """Every module can be imported, but the two that are programs."""
    code = """
import flotilla, importlib, pkgutil
names = [found.name for found in pkgutil.walk_packages(flotilla.__path__, "flotilla.")]
for name in names:
    if name not in ("flotilla.__main__", "flotilla.flwr_compat.executor"):
        importlib.import_module(name)
print(len(names))
"""
    assert int(said([installed.python, "-W", "ignore", "-c", code], tmp_path)) > 150


def test_the_command_runs_its_own_app_on_both_engines(installed: Environment, tmp_path: Path) -> None:
    assert "run" in said([installed.command("flotilla"), "--help"], tmp_path)
    states = []
    for name, engine in (("flower", []), ("local", ["--engine", "local"])):
        command = [installed.command("flotilla"), "run", *engine, "--run-dir", name, "-c", SHORT]
        assert "finished after 2 rounds" in said(command, tmp_path)
        assert json.loads((tmp_path / name / "summary.json").read_text())["status"] == "finished"
        states.append((tmp_path / name / "model.safetensors").read_bytes())
    assert states[0] == states[1]


def test_a_third_partys_app_runs(installed: Environment, tmp_path: Path) -> None:
    app = tmp_path / "their-app"
    (app / "theirs").mkdir(parents=True)
    for name, text in (
        ("pyproject.toml", PYPROJECT),
        ("LICENSE", "free\n"),
        ("theirs/__init__.py", ""),
        ("theirs/server.py", SERVER),
        ("theirs/client.py", CLIENT),
    ):
        (app / name).write_text(text)
    assert "THEIRS [1, 2] 2.000" in said([installed.command("flotilla"), "run", str(app)], tmp_path)


def test_a_part_of_the_tests_passes(installed: Environment, tmp_path: Path) -> None:
    renamer = Renamer(ROOT, MOVED, PARENT)
    helpers = [file for file in (ROOT / "tests").rglob("*.py") if not file.name.startswith("test_")]
    parts = [file for part in PART for file in ((ROOT / part).rglob("test_*.py") if "." not in part else [ROOT / part])]
    for source in (*helpers, *parts):
        target = tmp_path / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(renamer.rewrite(source.read_text(), str(source.relative_to(ROOT))))
    installed.add([Requirement("pytest"), Requirement("hypothesis")])
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=.", "--import-mode=importlib", "-W", "error"]
    shutil.copy(ROOT / "LICENSE", tmp_path)
    print(said([installed.python, "-m", "pytest", *options, "--rootdir", ".", *PART], tmp_path).splitlines()[-1])
