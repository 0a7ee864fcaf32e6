"""torchvision imports whichever build it is, and however often it was tried before. Each case is a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_USE = "from data.vision import vision_datasets as v; assert v() is v(); assert v().MNIST and v().CIFAR10"


def _run(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("try: import torchvision\nexcept RuntimeError: pass", id="after a try", marks=pytest.mark.slow),
        pytest.param(_USE + "\nimport torchvision; v.cache_clear()", id="already imported", marks=pytest.mark.slow),
        # A build whose library loads: its operators are there before anything of ours runs.
        pytest.param(
            "import torch; l = torch.library.Library('torchvision', 'DEF')\n"
            "[l.define(n + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor') for n in ('nms', 'qnms')]",
            id="matching build",
        ),
    ],
)
def test_imports(before: str) -> None:
    _run(before + "\n" + _USE)
