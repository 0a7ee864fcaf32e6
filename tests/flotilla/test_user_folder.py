"""A folder of the user's own that says what differs from Flotilla's app, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = """
[tool.flotilla.config]
method = "my_lab.methods:FromOffset"
model = "my_lab.networks:perceptron"
dataset = "my_lab.data:Stripes"
perceptron-hidden = 12
num-clients = 4
num-server-rounds = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mine = tmp_path / "mine"
    shutil.copytree(ROOT / "tests/plugins/my_lab", mine / "my_lab")
    (mine / "pyproject.toml").write_text(PROJECT)
    return mine


def flotilla(*words: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "flotilla", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_runs_with_its_packages_and_its_settings(folder: Path, tmp_path: Path) -> None:
    """What the command line says goes before what the folder says, and that before Flotilla's defaults."""
    run = ["run", str(folder), "--engine", "local", "--processes", "0", "--run-dir", "out", "-c", "num-clients=3"]
    assert "finished after 2 rounds" in flotilla(*run, cwd=tmp_path)
    config = json.loads((tmp_path / "out/config.json").read_text())["config"]
    assert (config["num-clients"], config["perceptron-hidden"], config["batch-size"]) == (3, 12, 16)
    assert config["from-offset-smoothing"] == 0.1
    assert config["model"] == "my_lab.networks:perceptron"


def test_its_settings_are_explained_in_it(folder: Path) -> None:
    out = flotilla("explain", "perceptron-hidden", cwd=folder)
    assert re.search(r"value +12  ", out)
    assert re.search(r"default +32", out)
    assert "my_lab.networks:perceptron" in out
    assert re.search(r"^perceptron-hidden +32 ", flotilla("keys", "perceptron", cwd=folder), re.M)


def test_data_that_a_bundle_cannot_carry_are_said(folder: Path, tmp_path: Path) -> None:
    (folder / "my_lab/table.csv").write_text("1, 2")
    command = [sys.executable, "-m", "flotilla", "run", str(folder), "--engine", "local", "--processes", "0"]
    done = subprocess.run(
        [*command, "-c", "num-server-rounds=1"], cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "flotilla: 1 file does not go along in Flower's bundle" in done.stderr
    assert "my_lab/table.csv" in done.stderr
