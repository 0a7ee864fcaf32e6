"""A run that is stopped says how to go on with it, and that works; by both engines."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume.walks import disagreements

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    'model="mlp" widths="24, 12" num-clients=3 tiers="wide:1, narrow:1/2" local-epochs=1 num-server-rounds=400 '
    'learning-rate-schedule="constant"'
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def _heeds_ctrl_c() -> None:
    """Also where a shell began the tests in the background, whose processes ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("engine", ["local", pytest.param("flower", marks=pytest.mark.slow)])
def test_ctrl_c_prints_the_command_that_goes_on(tmp_path: Path, engine: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flotilla", "run", str(ROOT), "--engine", engine, "-c", SMALL]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heeds_ctrl_c,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("round   3/"):
            break
    process.send_signal(signal.SIGINT)
    more, err = process.communicate(timeout=300)
    assert process.returncode == 130, said + more + err
    assert "\x1b" not in said + more + err
    found = re.search(r"^flotilla: go on with it: (flotilla run .*)$", err, re.M)
    assert found, err
    again = shlex.split(found[1])
    run = tmp_path / again[-1]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert summary["rounds"] >= 3
    everything = dict.fromkeys(range(401), summary["model"]["sha256"])  # of which run is not the question here
    assert disagreements(run, everything) == []

    last = summary["rounds"] + 1
    resumed = [sys.executable, "-m", *again, "-c", f"num-server-rounds={last}"]
    done = subprocess.run(resumed, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=450, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = json.loads((run / "summary.json").read_text())
    assert (after["status"], after["rounds"], after["model"]["round"]) == ("finished", last, last)
