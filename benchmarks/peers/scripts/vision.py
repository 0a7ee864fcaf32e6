"""Lets libraries import torchvision where PyPI's build of it does not fit the build of PyTorch."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_OURS = Path(__file__).resolve().parents[3] / "models" / "vision_library.py"


def import_torchvision() -> None:
    """Import torchvision as Flotilla does, by that one file: its package needs what other environments lack."""
    spec = spec_from_file_location("vision_library", _OURS)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    _kept.append(module)
    module.torchvision_part("datasets")


_kept: list[object] = []  # what it declares lasts as long as the module does
