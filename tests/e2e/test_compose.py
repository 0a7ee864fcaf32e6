"""docker-compose.yml as it is: brought up, a job run on it with plain `flwr run`, taken down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from flotilla.deploy.federation import tiers_of
from flotilla.settings import app_defaults
from flotilla.superlink.superlink import free_port

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PROJECT = "flotilla-test"
SEED = 124  # with it a simulation gives its five nodes the tiers that the compose file's nodes have
METHODS = ("heterofl", "depthfl")
CONFIG = 'method="{method}" num-clients=5 seed={seed} num-server-rounds=2 local-epochs=1 evaluate-every=2'

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]


def sh(*command: str, env: dict[str, str], seconds: float = 900) -> str:
    """Run a command in the project's folder and return what it says."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, check=False)
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
        **os.environ,
        **wheels(),
        "COMPOSE_PROJECT_NAME": PROJECT,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLOTILLA_ADDRESS": f"127.0.0.1:{free_port()}",  # another federation may have the usual port
    }
    kept = (ROOT / "keys").exists()
    yield env
    subprocess.run(["docker", "compose", "logs", "--tail", "20"], cwd=ROOT, env=env, check=False)
    subprocess.run(["docker", "compose", "down", "-v", "--timeout", "3"], cwd=ROOT, env=env, check=False)
    if not kept:
        shutil.rmtree(ROOT / "keys", ignore_errors=True)


def test_the_compose_file_trains(environment: dict[str, str], tmp_path: Path) -> None:
    env, address = environment, environment["FLOTILLA_ADDRESS"]
    flotilla = [sys.executable, "-m", "flotilla"]
    sh("docker", "compose", "build", env=env)
    sh("docker", "compose", "run", "--rm", "keys", env=env)
    sh("docker", "compose", "up", "-d", "--wait", "superlink", env=env)
    assert sh(*flotilla, "register", "keys", "--superlink", address, env=env).count("registered") == 5
    sh("docker", "compose", "up", "-d", "--wait", env=env)
    sh(*flotilla, "connect", "compose", "--superlink", address, "--home", str(tmp_path / "flwr"), env=env)

    for part in ("superlink", "serverapp", "supernode-0", "clientapp-4"):
        inside = ["docker", "compose", "exec", part, "sh", "-c"]
        assert sh(*inside, "id -u", env=env).strip() == "49999", part
        assert sh(*inside, "touch /python/x 2>&1 || echo read-only", env=env).strip().endswith("read-only"), part

    a_stranger_is_refused(env)
    assert tiers_of(app_defaults(ROOT) | {"num-clients": 5, "seed": SEED}, 5) == list("abcde")
    for method in METHODS:
        config = CONFIG.format(method=method, seed=SEED)
        trains_what_the_simulation_trains(method, config, env, tmp_path)
    runs = json.loads(sh(str(BIN / "flwr"), "ls", "compose", "--format", "json", env=env))
    assert [run["status"] for run in runs["runs"]] == ["finished:completed"] * len(METHODS)


def a_stranger_is_refused(env: dict[str, str]) -> None:
    """A container like the nodes', in their network, that trusts the authority but has no key."""
    done = subprocess.run(
        [
            "docker",
            "compose",
            "run",
            "--rm",
            "--no-deps",
            "-T",
            "supernode-0",
            "--superlink=superlink:8000",
            "--root-certificates=/keys/ca.crt",
            "--isolation=process",
            "--max-retries=1",
            '--node-config=partition-id=0 num-partitions=5 tier="a"',
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "[code: 2001] SuperNode authentication is enabled" in said, said
    assert "SuperNode ID" not in said, said
    print("a container without a key is refused: code 2001")


def trains_what_the_simulation_trains(method: str, config: str, env: dict[str, str], folder: Path) -> None:
    """The very same model: the containers have the same torch, and threads are part of the configuration."""
    deployed, simulated = folder / method, folder / f"{method}-simulated"
    there = f'tier-assignment="node" run-dir="/app/runs/{method}"'
    print(sh(str(BIN / "flwr"), "run", ".", "compose", "--stream", "--run-config", f"{config} {there}", env=env))
    sh("docker", "compose", "cp", f"serverapp:/app/runs/{method}", str(deployed), env=env)
    summary = json.loads((deployed / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("finished", 2)
    rows = [json.loads(line) for line in (deployed / "metrics.jsonl").read_text().splitlines()]
    assert [(row["accepted"], row["rejected"]) for row in rows] == [(5, [])] * 2
    assert set(rows[0]["selected_tiers"]) == set("abcde")
    local = ["--engine", "local", "--processes", "0", "--run-dir", str(simulated), "--run-config", config]
    sh(sys.executable, "-m", "flotilla", "run", ".", *local, env=env)
    models = [sha256((run / "model.safetensors").read_bytes()).hexdigest() for run in (deployed, simulated)]
    print(f"{method}: {summary['last']['accuracy']:.4f}, model {models[0][:12]}, simulated {models[1][:12]}")
    assert models[0] == models[1]
