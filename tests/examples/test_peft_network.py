"""A network of peft's own is trained, and its rank is cut."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks.probes.structure import ROOT


@pytest.mark.slow
@pytest.mark.skipif(any(find_spec(one) is None for one in ("timm", "peft", "accelerate")), reason="pip install peft")
def test_the_example_runs() -> None:
    command = [sys.executable, str(ROOT / "examples" / "peft_network.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert "blocks.1.attn.qkv.lora_A.default.weight: (8, 32), of the smaller devices (2, 32)" in ran.stdout
    assert len(re.findall(r"lora_[AB]|head", ran.stdout)) == 14
    losses = [float(loss) for loss in re.findall(r"training loss (\S+)", ran.stdout)]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
