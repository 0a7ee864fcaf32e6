"""What tensors are computed with: the device, and the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from models.errors import SettingError


@lru_cache(maxsize=16)
def device_named(name: str) -> torch.device:
    """Find the device of a setting: "auto" is CUDA where present, else the CPU; anything else is itself.

    Raises:
        SettingError: (key device) this machine does not have it.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("device", name, '"auto" or "cpu" on this machine, where PyTorch finds no CUDA')
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":  # the same sums every time, in float32
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def device_like(name: str) -> torch.device:
    """The device of a setting that is about other machines: as `device_named`, or what there is here in its place."""
    return device_named(name if name != "cuda" or torch.cuda.is_available() else "auto")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with a fixed number of threads, on which float sums depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
