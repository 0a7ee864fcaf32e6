"""A wheel of the project in an environment that has nothing else, used from another directory; `make test-wheel`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file

from build_hooks.rename import Renamer
from build_hooks.wheel import MOVED, PARENT
from tests.clients_page import write_app
from tests.wheel.environment import Environment

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parents[2]
SHORT = 'num-server-rounds=2 num-clients=4 model="mlp" widths="16, 8" local-epochs=1 batch-size=128'
ORDINARY = (
    'model="my_lab.modules:Inverted" method="depthfl" tiers="a:1, b:1/2" num-server-rounds=1 local-epochs=1'
    " batch-size=128"
)
# What is tested against the installed package: parity with the authors' rules, the algebra, frames.
PART = [
    "tests/parity/test_heterofl.py",
    "tests/parity/test_fedavg.py",
    "tests/models/algebra",
    "tests/protocol/test_frames.py",
]

# A run of the plug-in package's method, network and data set, by the names of its entry points and by import path.
BY_NAME = {"method": "from-offset", "model": "perceptron", "dataset": "stripes"}
BY_PATH = {
    "method": "my_lab.methods:FromOffset",
    "model": "my_lab.networks:perceptron",
    "dataset": "my_lab.data:Stripes",
}
ITS_OPTIONS = "from-offset-offset=2 perceptron-hidden=24 stripes-noise=0.1 num-server-rounds=2 num-clients=4"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel that `make wheel` builds, from the sdist, installed; all tests share it."""
    environment = Environment(ROOT / ".venv-wheel")  # beside .venv, so that files can be linked
    environment.install(built(ROOT, tmp_path_factory.mktemp("dist")))
    return environment


def built(project: Path, dist: Path, *options: str) -> Path:
    """Build a wheel of a project."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(dist), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = dist.glob("*.whl")
    print(f"\nbuilt {wheel.name}")
    return wheel


def said(command: list[str], folder: Path) -> str:
    """Run a command there, with nothing of ours in its environment; what it printed, whose end is shown."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL"))}
    begun = perf_counter()
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    words = [Path(command[0]).name, *(word if "\n" not in word else "…" for word in command[1:])]
    print(f"\n$ {shlex.join(words)}  # {perf_counter() - begun:.0f} s", *done.stdout.splitlines()[-4:], sep="\n  ")
    return done.stdout


def run_config(named: Mapping[str, str]) -> str:
    """Settings that name these, and options that they have."""
    return " ".join([*(f'{key}="{value}"' for key, value in named.items()), ITS_OPTIONS])


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
    """The code of docs/clients.md as it stands there. A run that learnt nothing would not exit 0."""
    app = write_app(tmp_path / "app")
    out = said([installed.command("flotilla"), "run", str(app), "--verbose"], tmp_path)
    assert "HeteroFL on mlp" in out


def test_a_plug_in_package(installed: Environment, tmp_path: Path) -> None:
    """Not installed, it goes with a run, named by import path; installed, its names do. The run is the same."""
    flotilla = installed.command("flotilla")
    where = [installed.python, "-c", "from importlib.util import find_spec; print(find_spec('my_lab'))"]
    assert said(where, tmp_path) == "None\n"
    with_it = ["--with", str(ROOT / "tests/plugins/my_lab")]
    said([flotilla, "run", "--run-dir", "by-path", *with_it, "-c", run_config(BY_PATH)], tmp_path)

    installed.install(built(ROOT / "tests/plugins", tmp_path / "dist", "--wheel"))
    assert "\nfrom-offset " in said([flotilla, "methods"], tmp_path)
    assert "\nstripes-noise " in said([flotilla, "keys", "stripes"], tmp_path)
    said([flotilla, "run", "--engine", "local", "--run-dir", "by-name", "-c", run_config(BY_NAME)], tmp_path)
    installed.remove("my-lab")

    by_path, by_name = (load_file(tmp_path / name / "model.safetensors") for name in ("by-path", "by-name"))
    assert by_path.keys() == by_name.keys()
    assert all(torch.equal(tensor, by_name[name]) for name, tensor in by_path.items())
    for name in ("by-path", "by-name"):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("finished", 2)


def test_an_ordinary_module(installed: Environment, tmp_path: Path) -> None:
    """A folder outside everything, by import path: the same on both engines."""
    shutil.copytree(ROOT / "tests/plugins/my_lab", tmp_path / "my_lab")
    flotilla, settings, with_it = installed.command("flotilla"), f"{ORDINARY} num-clients=4", ["--with", "my_lab"]
    out = said([flotilla, "inspect", "my_lab.modules:Inverted", *with_it, "--input", "1,8,8"], tmp_path)
    assert "found and proved" in out
    states = []
    for name, engine in (("flower", []), ("local", ["--engine", "local"])):
        out = said([flotilla, "run", *engine, "--run-dir", name, *with_it, "-c", settings], tmp_path)
        assert "tiers hold: a (1) 100.0%" in out
        states.append((tmp_path / name / "model.safetensors").read_bytes())
    assert states[0] == states[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_ordinary_module_on_supernodes(installed: Environment, tmp_path: Path) -> None:
    """Nodes that allow it train it, others refuse it; its network is used from another directory."""
    shutil.copytree(ROOT / "tests/plugins/my_lab", tmp_path / "my_lab")
    deployed = [installed.command("flotilla"), "federation", "--insecure", "--with", "my_lab"]
    deployed += ["-c", f"{ORDINARY} node-wait=300.0", "--run-dir"]
    refused = subprocess.run(
        [*deployed, "refused"], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert refused.returncode == 1
    assert "owner allows" in refused.stderr
    assert "finished after" in said([*deployed, "deployed", "--allow", "my_lab.*"], tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = """
import sys, torch, flotilla
sys.path.insert(0, "..")
model = flotilla.load("../deployed", tier="b", allow=["my_lab.*"])
print(tuple(model(model.preprocess(torch.zeros(2, 1, 8, 8))).shape), model.classes[:2])
"""
    assert "(2, 10)" in said([installed.python, "-W", "ignore", "-c", code], elsewhere)


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
    assert " passed" in said([installed.python, "-m", "pytest", *options, "--rootdir", ".", *PART], tmp_path)
