"""Where tensors are computed with."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """Find the device of a setting: "auto" is CUDA where present, else the CPU; anything else is itself."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":  # the same sums every time, in float32
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)
