"""A federation of real processes: SuperLink, ServerApp, five SuperNodes of five tiers, over TLS with a key per node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from flotilla.keys import make_keys

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SMALL = 'model="mlp" widths="24, 12" norm="none" num-clients=5 num-server-rounds=2 local-epochs=1 evaluate-every=2'

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "flotilla", name, str(ROOT), *arguments]


def simulated(run: Path, config: str) -> None:
    """The same configuration in process, with the tiers that the federation's nodes are told."""
    done = subprocess.run(
        command("run", "--engine", "local", "--processes", "0", "--run-dir", str(run), "-c", config),
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def fingerprint(run: Path) -> str:
    return sha256((run / "model.safetensors").read_bytes()).hexdigest()


def rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that do not outlive the test."""
    ours: list[subprocess.Popen[str]] = []

    def start(arguments: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )
        ours.append(process)
        return process

    yield start
    for process in ours:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], start: str) -> str:
    """The rest of the first line that begins like this."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(start):
            return line.removeprefix(start).strip()
    raise AssertionError("".join(seen))


def test_strangers_are_refused_and_the_run_is_the_simulated_one(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    keys, run = tmp_path / "keys", tmp_path / "run"
    make_keys(keys, 6)  # the sixth is registered nowhere
    federation = started(command("federation", "--keys", str(keys), "--run-dir", str(run), "-c", SMALL))
    superlink = until(federation, "SuperLink: ")

    trust = ["--root-certificates", str(keys / "ca.crt")]
    strangers = {
        "no key": trust,
        "a wrong key": [*trust, "--auth-supernode-private-key", str(keys / "node-5" / "auth")],
        "no TLS": ["--insecure"],
    }
    env = {**os.environ, "FLWR_HOME": str(tmp_path / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
    refused = {
        name: started(
            [str(BIN / "flower-supernode"), "--superlink", superlink, "--port", str(19190 + i), "--max-retries", "1",
             "--isolation", "process", "--node-config", 'partition-id=0 num-partitions=5 tier="a"', *options],
            env={**env, "FLWR_DISABLE_UPDATE_CHECK": "1"},
        )
        for i, (name, options) in enumerate(strangers.items())
    }  # fmt: skip
    for name, process in refused.items():
        said = process.communicate(timeout=300)[0]
        assert process.returncode != 0, f"{name}: {said}"
        assert "SuperNode ID" not in said, f"{name}: {said}"

    said = federation.communicate(timeout=600)[0]
    assert federation.returncode == 0, said
    assert [(row["accepted"], row["rejected"]) for row in rows(run)] == [(5, [])] * 2
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"

    simulated(tmp_path / "simulated", SMALL)
    assert fingerprint(run) == fingerprint(tmp_path / "simulated")


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, started: Callable[..., subprocess.Popen[str]]) -> None:
    config = SMALL.replace("rounds=2", "rounds=500")
    federation = started(command("federation", "--insecure", "--run-dir", str(tmp_path / "run"), "-c", config))
    until(federation, "round   1/500")
    family = psutil.Process(federation.pid).children(recursive=True)
    assert len(family) >= 13  # guard, SuperLink, ServerApp, the executor, and for each of five nodes two
    federation.send_signal(signal.SIGINT)
    federation.communicate(timeout=60)
    assert federation.returncode == 130
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


@pytest.mark.parametrize("method", ["heterofl", "depthfl"])
def test_the_accuracy_is_that_of_the_simulation(method: str, tmp_path: Path) -> None:
    """The whole job on digits: not about the same, but the very same model."""
    config = f'method="{method}" num-clients=5 num-server-rounds=10 evaluate-every=10'
    began = time.monotonic()
    done = subprocess.run(
        command("federation", "--run-dir", str(tmp_path / "deployed"), "-c", config),
        capture_output=True, text=True, timeout=850, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{method}: {time.monotonic() - began:.0f} s\n{done.stdout}")
    simulated(tmp_path / "simulated", config)
    assert fingerprint(tmp_path / "deployed") == fingerprint(tmp_path / "simulated")
    assert rows(tmp_path / "deployed")[-1]["tiers"] == rows(tmp_path / "simulated")[-1]["tiers"]
