"""docker-compose.yml as it is: brought up, a job run on it with plain `flwr run`, taken down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def debian() -> dict[str, str]:
    """Where no registry has Debian's image, the proxy's is built on one that is here and is Debian as well."""
    wanted, other = "debian:12-slim", "python:3.11-slim"
    if subprocess.run(["docker", "image", "inspect", wanted], capture_output=True, check=False).returncode == 0:
        return {}
    here = subprocess.run(["docker", "image", "inspect", other], capture_output=True, check=False).returncode == 0
    return {"FLOTILLA_DEBIAN": other} if here else {}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    env = {
        **os.environ,
        **wheels(),
        **debian(),
        "COMPOSE_PROJECT_NAME": PROJECT,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLOTILLA_ADDRESS": f"127.0.0.1:{free_port()}",  # another federation may have the usual ports
        "FLOTILLA_FLEET_ADDRESS": f"127.0.0.1:{free_port()}",
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

    every_container_is_held(env)
    a_stranger_is_refused(env)
    a_node_sees_the_proxy_only(env)
    assert tiers_of(app_defaults(ROOT) | {"num-clients": 5, "seed": SEED}, 5) == list("abcde")
    for method in METHODS:
        config = CONFIG.format(method=method, seed=SEED)
        meanwhile = control_calls_are_refused_outside if method == METHODS[0] else None
        trains_what_the_simulation_trains(method, config, env, tmp_path, meanwhile)
    runs = json.loads(sh(str(BIN / "flwr"), "ls", "compose", "--format", "json", env=env))["runs"]
    ours = [run["status"] for run in runs if run["fab-name"] == "flotilla"]
    assert ours == ["finished:completed"] * len(METHODS)


def every_container_is_held(env: dict[str, str]) -> None:
    """No rights, nothing to write to but its volumes, limits on what it takes; the SuperLink's state is its own."""
    ids = sh("docker", "compose", "ps", "-q", env=env).split()
    parts = json.loads(sh("docker", "inspect", *ids, env=env))
    assert len(parts) == 13
    for part in parts:
        name, host = part["Name"], part["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert min(host["Memory"], host["NanoCpus"], host["PidsLimit"]) > 0, name
    for service in ("superlink", "proxy", "serverapp", "supernode-0", "clientapp-4"):
        inside = ["docker", "compose", "exec", service, "sh", "-c"]
        assert sh(*inside, "id -u", env=env).strip() == "49999", service
        assert sh(*inside, "touch /usr/x 2>&1 || echo read-only", env=env).strip().endswith("read-only"), service
    state = sh("docker", "compose", "exec", "superlink", "sh", "-c", "stat -c %a /app/superlink.db*", env=env)
    assert set(state.split()) == {"600"}, state


def a_node_sees_the_proxy_only(env: dict[str, str]) -> None:
    """From a SuperNode's container the SuperLink has not even a name; nor has anything from a ClientApp's."""
    reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5); print('reached')"
    for service, host, port, reached in [
        ("supernode-0", "proxy", "8443", True),
        ("supernode-0", "superlink", "8000", False),
        ("clientapp-0", "supernode-0", "9094", True),
        ("clientapp-0", "proxy", "8443", False),
        ("clientapp-0", "192.0.2.1", "443", False),
    ]:
        inside = ["docker", "compose", "exec", service, "python", "-c", reach, host, port]
        done = subprocess.run(inside, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert (done.stdout.strip() == "reached") == reached, (service, host, done.stdout + done.stderr)


def control_calls_are_refused_outside(env: dict[str, str]) -> None:
    """List runs, list nodes, register a node, start a run: the command of docs/deploy.md."""
    ports = ["--public", env["FLOTILLA_FLEET_ADDRESS"], "--local", env["FLOTILLA_ADDRESS"]]
    said = sh(sys.executable, "-m", "flotilla", "access", *ports, env=env)
    print(said)
    rows = [line for line in said.splitlines() if line.startswith("flwr ")]
    assert [row.split()[-3:] for row in rows] == [["works", "refused", "(403)"]] * 4


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
            "--superlink=proxy:8443",
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


def trains_what_the_simulation_trains(
    method: str, config: str, env: dict[str, str], folder: Path, meanwhile: Callable[[dict[str, str]], None] | None
) -> None:
    """The very same model: the containers have the same torch, and threads are part of the configuration."""
    deployed, simulated = folder / method, folder / f"{method}-simulated"
    there = f'tier-assignment="node" run-dir="/app/runs/{method}"'
    run = [str(BIN / "flwr"), "run", ".", "compose", "--stream", "--run-config", f"{config} {there}"]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(sh, *run, env=env)
        if meanwhile is not None:
            meanwhile(env)
        print(running.result())
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
