"""Where tensors are computed with."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """Find the device of a setting: "auto" is CUDA where present, else the CPU; anything else is itself."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
