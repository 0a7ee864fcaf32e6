"""The one place that imports torchvision.

torchvision 0.28.0 from PyPI is the CUDA build. Next to a CPU build of torch its native library cannot be loaded. It
tolerates that, but then registers shape functions for `torchvision::nms` and `torchvision::qnms`, which only that
library declares, and the whole import fails. Declaring the two operators is enough: nothing here ever calls them.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# torch forgets what a Library declared when the object dies, so it has to live as long as the process.
_declared: list[torch.library.Library] = []


def _load_native_library() -> None:
    """Load torchvision's own operators where they can be loaded, without running torchvision's `__init__`.

    Declaring an operator first and loading the library that declares it afterwards would abort the library's
    registration, so the real one always gets the first go. Loading it twice is harmless.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    for library in sorted(Path(spec.origin).parent.glob("_C*")):
        # OSError: it was linked against CUDA libraries that this machine lacks.
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]


def _declare_missing_operators() -> None:
    missing = [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in missing:
            library.define(name + _SIGNATURE)  # type: ignore[no-untyped-call]
        _declared.append(library)


def torchvision_part(name: str) -> ModuleType:
    """Return `torchvision.datasets`, `torchvision.models`, …; importing torchvision takes about two seconds.

    Works with a CUDA build of torchvision next to a CPU build of torch, with a matching pair, and when torchvision has
    been imported already, or has been tried in vain.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    if "torchvision" not in sys.modules:
        _load_native_library()
        _declare_missing_operators()
        # A failed import elsewhere leaves submodules behind that no longer hang on a parent.
        for left in [left for left in sys.modules if left.startswith("torchvision.")]:
            del sys.modules[left]
    return importlib.import_module(f"torchvision.{name}")
