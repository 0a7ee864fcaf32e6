"""A few of the trials that `make trials` does as many of as one wants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_nothing_is_lost_but_what_was_in_flight() -> None:
    command = [sys.executable, "-m", "tests.faults.trials", "4", "--rounds", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all equal: " in done.stdout
