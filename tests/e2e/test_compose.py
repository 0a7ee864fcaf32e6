"""docker-compose.yml as it is: brought up, a job run on it with plain `flwr run`, taken down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CONFIG = (
    'num-clients=5 tier-assignment="node" model="mlp" widths="24, 12" norm="none" num-server-rounds=2 local-epochs=1 '
    'evaluate-every=2 run-dir="/app/runs/test"'
)
PROJECT = "flotilla-test"

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]


def sh(*command: str, env: dict[str, str], seconds: float = 900) -> str:
    """Run a command in the project's folder and return what it says."""
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, check=False
    )  # fmt: skip
    print(f"{time.monotonic() - began:6.1f} s  {' '.join(command)[:120]}", flush=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def wheels() -> dict[str, str]:
    """Where the machine has CPU wheels of torch, and so perhaps no way to their index, the build takes those."""
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    for line in pip.splitlines():
        folder = Path(line.partition("=")[2].strip("'"))
        if line.partition("=")[0].endswith("find-links") and list(folder.glob("torch-*+cpu-*.whl")):
            return {"FLOTILLA_WHEELS": str(folder), "FLOTILLA_TORCH_OPTIONS": ""}
    return {}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    env = {
        **os.environ, **wheels(), "COMPOSE_PROJECT_NAME": PROJECT, "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_TELEMETRY_ENABLED": "0",
    }  # fmt: skip
    kept = (ROOT / "keys").exists()
    yield env
    subprocess.run(["docker", "compose", "logs", "--tail", "20"], cwd=ROOT, env=env, check=False)
    subprocess.run(["docker", "compose", "down", "-v", "--timeout", "3"], cwd=ROOT, env=env, check=False)
    if not kept:
        shutil.rmtree(ROOT / "keys", ignore_errors=True)


def test_the_compose_file_trains(environment: dict[str, str], tmp_path: Path) -> None:
    env = environment
    flotilla = [sys.executable, "-m", "flotilla"]
    sh("docker", "compose", "build", env=env)
    sh("docker", "compose", "run", "--rm", "keys", env=env)
    sh("docker", "compose", "up", "-d", "--wait", "superlink", env=env)
    assert sh(*flotilla, "register", "keys", env=env).count("registered") == 5
    sh("docker", "compose", "up", "-d", "--wait", env=env)
    sh(*flotilla, "connect", "compose", "--home", str(tmp_path / "flwr"), env=env)

    for part in ("superlink", "serverapp", "supernode-0", "clientapp-4"):
        inside = ["docker", "compose", "exec", part, "sh", "-c"]
        assert sh(*inside, "id -u", env=env).strip() == "49999", part
        assert sh(*inside, "touch /python/x 2>&1 || echo read-only", env=env).strip().endswith("read-only"), part

    print(sh(str(BIN / "flwr"), "run", ".", "compose", "--stream", "--run-config", CONFIG, env=env))
    runs = json.loads(sh(str(BIN / "flwr"), "ls", "compose", "--format", "json", env=env))
    assert [run["status"] for run in runs["runs"]] == ["finished:completed"]
    sh("docker", "compose", "cp", "serverapp:/app/runs/test", str(tmp_path / "run"), env=env)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("finished", 2)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["accepted"], row["rejected"]) for row in rows] == [(5, [])] * 2
    assert set(rows[0]["selected_tiers"]) == set("abcde")
