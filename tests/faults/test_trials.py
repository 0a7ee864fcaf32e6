"""A few of the trials that `make trials` does as many of as one wants: each part once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 1400.0


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(SECONDS + 200)
def test_nothing_is_lost_but_what_was_in_flight() -> None:
    command = [sys.executable, "-m", "tests.faults.trials", "4", "--rounds", "6"]
    trials = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = trials.communicate(timeout=SECONDS)[0]
    finally:
        if trials.poll() is None:
            trials.terminate()  # it ends its federation, which takes its guard a moment
            trials.communicate(timeout=120)
    print(said)
    assert trials.returncode == 0, said
    for part in ("ClientApp", "SuperNode", "SuperLink", "ServerApp"):
        assert f"{part}: 1 kills, " in said
    assert "ServerApp: 1 kills, 0 replies lost" in said
    assert "all equal: 4 kills in " in said
