"""The user's own code on real SuperNodes: it travels in the bundle, and a node follows what its owner allows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).parents[1] / "plugins/my_lab"
SETTINGS = (
    'model="my_lab.networks:perceptron" perceptron-hidden=12 codec="my_lab.codecs:Bytes" num-server-rounds=1 '
    'method="my_lab.methods:FromOffset" from-offset-offset=2 tiers="a:1, b:1/2" local-epochs=1 node-wait=300.0'
)


ORDINARY = 'model="my_lab.modules:Inverted" method="nefl" num-server-rounds=1 tiers="a:1, b:1/2" node-wait=300.0'


def federation(folder: Path, *words: str, settings: str = SETTINGS) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flotilla", "federation", "--insecure", "--with", str(LAB), "-c", settings]
    command += ["--run-dir", str(folder / "run"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800, check=False)


@pytest.mark.e2e
@pytest.mark.slow
def test_supernodes_refuse_what_they_do_not_allow(tmp_path: Path) -> None:
    done = federation(tmp_path)
    assert done.returncode == 1
    assert "my_lab.networks:perceptron" in done.stderr
    assert "owner allows" in done.stderr


@pytest.mark.e2e
@pytest.mark.slow
def test_supernodes_follow_what_they_allow(tmp_path: Path) -> None:
    done = federation(tmp_path, "--allow", "my_lab.*")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "finished"
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert config["perceptron-hidden"] == 12


@pytest.mark.e2e
@pytest.mark.slow
def test_an_ordinary_module_is_traced_on_supernodes(tmp_path: Path) -> None:
    done = federation(tmp_path, "--allow", "my_lab.modules:*", settings=ORDINARY)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(row["accepted"], row["rejected"]) for row in rows] == [(2, [])]
