"""A federation of real processes: SuperLink, ServerApp, five SuperNodes of five tiers, over TLS with a key per node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from flotilla.deploy.tls_keys import make_keys
from flotilla.superlink.superlink import free_port
from tests import own_pictures

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SMALL = 'model="mlp" widths="24, 12" norm="none" num-clients=5 num-server-rounds=2 local-epochs=1 evaluate-every=2'

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "flotilla", name, str(ROOT), *arguments]


def simulated(run: Path, config: str) -> None:
    """The same configuration in process, with the tiers that the federation's nodes are told."""
    done = subprocess.run(
        command("run", "--engine", "local", "--processes", "0", "--run-dir", str(run), "-c", config),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def fingerprint(run: Path) -> str:
    return sha256((run / "model.safetensors").read_bytes()).hexdigest()


def rows(run: Path) -> list[dict[str, Any]]:
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
    for process in ours:  # asked first: a federation's guard sweeps after a kill, but later than the test's end
        process.terminate()
    for process in ours:
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def until(process: subprocess.Popen[str], start: str) -> str:
    """The rest of the first line that says this."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if start in line:
            return line.partition(start)[2].strip()
    raise AssertionError("".join(seen))


@pytest.mark.timeout(600)
def test_a_short_federation_trains_the_simulated_model(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    """The one deployed run of the ordinary suite: TLS, a key per node, our executor; the very same model."""
    config = 'model="mlp" widths="24, 12" norm="none" tiers="a:1, b:1/2" num-server-rounds=2 local-epochs=1'
    run = tmp_path / "run"
    federation = started(command("federation", "--run-dir", str(run), "-c", f"{config} evaluate-every=2"))
    simulated(tmp_path / "simulated", f"{config} evaluate-every=2 num-clients=2")
    said = federation.communicate(timeout=500)[0]
    assert federation.returncode == 0, said
    assert "over TLS, a key per node" in said
    assert [(row["accepted"], row["rejected"]) for row in rows(run)] == [(2, [])] * 2
    assert fingerprint(run) == fingerprint(tmp_path / "simulated")


# How a SuperNode is turned away: options beside the address → what it must say of the cause.
REFUSED = {
    "no key": ((), "[code: 2001] SuperNode authentication is enabled"),
    "a wrong key": (("--auth-supernode-private-key", "{key}"), "[code: 2004] Failed to activate SuperNode"),
    "no TLS": (("--insecure",), "Server disconnected without sending a response"),
}


@pytest.mark.slow
def test_strangers_are_refused_and_the_run_is_the_simulated_one(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    keys, run, config = tmp_path / "keys", tmp_path / "run", SMALL.replace("rounds=2", "rounds=20")
    make_keys(keys, 6)  # the sixth is registered nowhere
    federation = started(command("federation", "--keys", str(keys), "--run-dir", str(run), "-c", config))
    superlink = until(federation, "SuperLink: ")
    env = {**os.environ, "FLWR_HOME": str(tmp_path / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
    key = str(keys / "node-5" / "auth")

    def supernode(options: Sequence[str]) -> subprocess.Popen[str]:
        trust = [] if "--insecure" in options else ["--root-certificates", str(keys / "ca.crt")]
        return started(
            [
                str(BIN / "flower-supernode"),
                "--superlink",
                superlink,
                "--port",
                str(free_port()),
                "--max-retries",
                "1",
                "--isolation",
                "process",
                "--node-config",
                'partition-id=0 num-partitions=5 tier="a"',
                *trust,
                *options,
            ],
            env={**env, "FLWR_DISABLE_UPDATE_CHECK": "1"},
        )

    strangers = {
        name: (supernode([option.format(key=key) for option in options]), cause)
        for name, (options, cause) in REFUSED.items()
    }
    for name, (process, cause) in strangers.items():
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 1, f"{name}: {said}"
        assert "Exit Code: 305" in said, f"{name}: {said}"
        assert cause in said, f"{name}: {said}"
        assert "SuperNode ID" not in said, f"{name}: {said}"
    until(federation, "round ")  # it goes on
    assert federation.poll() is None

    # The same command with the same key, once the SuperLink has been told of it: so nothing else was in its way.
    registered = subprocess.run(
        [sys.executable, "-m", "flotilla", "register", str(keys), "--superlink", superlink],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "node 5: registered" in registered.stdout
    known = supernode(["--auth-supernode-private-key", key])
    said = until(known, "SuperNode ID: ")
    known.terminate()  # at once: nobody would answer for it
    known.communicate(timeout=120)

    said = federation.communicate(timeout=600)[0]
    assert federation.returncode == 0, said
    assert [row["accepted"] for row in rows(run)] == [5] * 20
    # Nobody is named but the guest, if it was there when a round began.
    assert all(one["node"] is None for row in rows(run) for one in row["rejected"])
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"

    simulated(tmp_path / "simulated", config)
    assert fingerprint(run) == fingerprint(tmp_path / "simulated")


@pytest.mark.slow
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


@pytest.mark.slow
def test_devices_with_pictures_of_their_own(tmp_path: Path) -> None:
    """Two have the digits 0 to 4, two have 5 to 9, the server some to test on: as good as the divided simulation."""
    own_pictures.make(tmp_path, examples=1400, tested=397)
    both = (
        'dataset="image-folder" image-size=8 image-channels=1 num-clients=4 method="fedavg" tiers="a:1" model="mlp"'
        ' widths="64, 32" norm="none" num-server-rounds=8 local-epochs=3 evaluate-every=8'
    )
    own = f'{both} partition="own" data-root="{tmp_path / "server"}"'
    done = subprocess.run(
        command(
            *("federation", "--nodes", "4", "--node-data", str(tmp_path / "device")),
            *("--run-dir", str(tmp_path / "deployed"), "-c", own),
        ),
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(row["rejected"] == [] and row["accepted"] == 4 for row in rows(tmp_path / "deployed"))
    simulation = tmp_path / "all"
    simulation.mkdir()
    (simulation / "train").symlink_to(tmp_path / "device")
    (simulation / "test").symlink_to(tmp_path / "server/test")
    simulated(tmp_path / "simulated", f'{both} partition="natural" client-from="folder" data-root="{simulation}"')
    deployed, divided = (rows(tmp_path / run)[-1]["accuracy"] for run in ("deployed", "simulated"))
    print(f"owned {100 * deployed:.1f} %, divided {100 * divided:.1f} %")
    assert deployed > 0.8
    assert abs(deployed - divided) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("method", ["heterofl", "depthfl"])
def test_the_accuracy_is_that_of_the_simulation(method: str, tmp_path: Path) -> None:
    """The whole job on digits: not about the same, but the very same model."""
    config = f'method="{method}" num-clients=5 num-server-rounds=10 evaluate-every=10'
    began = time.monotonic()
    done = subprocess.run(
        command("federation", "--run-dir", str(tmp_path / "deployed"), "-c", config),
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{method}: {time.monotonic() - began:.0f} s\n{done.stdout}")
    simulated(tmp_path / "simulated", config)
    assert fingerprint(tmp_path / "deployed") == fingerprint(tmp_path / "simulated")
    assert rows(tmp_path / "deployed")[-1]["tiers"] == rows(tmp_path / "simulated")[-1]["tiers"]
