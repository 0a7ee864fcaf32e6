"""The whole app through real processes: `flotilla run` by both engines, and plain `flwr run`."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    'model="mlp" widths="24, 12" num-clients=4 num-server-rounds=2 tiers="wide:1, narrow:1/2" local-epochs=1 '
    'tier-assignment="dynamic" fraction-evaluate=1.0'
)
BIN = Path(sys.executable).parent

# A run takes 10 s on an idle machine; these bounds are for one that is not.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
SECONDS = 450


def flotilla(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "flotilla", "run", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def fingerprint(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def results(run: Path) -> list[tuple[object, ...]]:
    """What a metrics row says that does not depend on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (row["round"], row["selected"], row["accepted"], row["tiers"], row["coverage"], row["local"]) for row in rows
    ]


def test_ray_the_pool_and_one_process_give_the_same_numbers(tmp_path: Path) -> None:
    engines = {"ray": (), "pool": ("--engine", "local"), "one": ("--engine", "local", "--processes", "0")}
    for name, arguments in engines.items():
        done = flotilla("--run-dir", str(tmp_path / name), "--run-config", SMALL, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "narrow" in done.stdout  # the final table
    summary = json.loads((tmp_path / "ray" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["last"]["round"] == summary["rounds"] == 2
    assert len({fingerprint(tmp_path / name) for name in engines}) == 1
    assert results(tmp_path / "ray") == results(tmp_path / "pool") == results(tmp_path / "one")


@pytest.mark.slow
def test_a_failing_run_exits_with_1_and_says_why(tmp_path: Path) -> None:
    # Nobody's training stays finite, so no round has the replies it needs.
    config = SMALL.replace("rounds=2", "rounds=1") + " learning-rate=1e30"
    done = flotilla("--run-dir", str(tmp_path / "run"), "--run-config", config)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NothingLearnt" in done.stderr
    (row,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [one["reason"] for one in row["rejected"]] == ["unreadable reply: loss = nan: expected a finite number"] * 4
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ('method="nonesuch"', "method"),
        ('tier-assignment="node"', "tier-assignment"),
        ('tiers="a:2"', "tiers"),
        ("num-clients=5000", "num-clients"),
    ],
)
def test_a_wrong_setting_exits_with_2_before_anything_starts(tmp_path: Path, config: str, key: str) -> None:
    done = flotilla("--run-dir", str(tmp_path / "run"), "--run-config", config)
    assert done.returncode == 2
    assert done.stderr.startswith(f"flotilla: {key} = ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def own_flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which plain `flwr run` starts a SuperLink of its own, which is ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "flwr"
    yield {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # as an activated environment has it
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    ours = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("FLWR_HOME") == str(home)]
    for process in ours:
        process.kill()
    psutil.wait_procs(ours, timeout=60)


def test_plain_flwr_run_works(tmp_path: Path, own_flower: dict[str, str]) -> None:
    run = tmp_path / "run"
    command = [
        str(BIN / "flwr"),
        "run",
        str(ROOT),
        "--stream",
        "--federation-config",
        "num-supernodes=4 client-resources-num-cpus=1",
        "--run-config",
        f'{SMALL} run-dir="{run}"',
    ]
    done = subprocess.run(
        command, env=own_flower, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    until = time.monotonic() + 240
    while not (run / "summary.json").exists() and time.monotonic() < until:  # the log may end before the run does
        time.sleep(0.1)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["last"]["tiers"].keys() == {"wide", "narrow"}
