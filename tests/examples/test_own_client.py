"""The example of a ClientApp of one's own: it learns."""

from __future__ import annotations

import re
import subprocess
import sys

from benchmarks.probes.structure import ROOT


def test_it_learns() -> None:
    command = [sys.executable, str(ROOT / "examples" / "own_client.py")]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=600)
    losses = [float(loss) for loss in re.findall(r"^round \d+: training loss ([\d.]+)$", done.stdout, re.MULTILINE)]
    assert len(losses) == 5
    assert losses[-1] < 0.7 * losses[0]
