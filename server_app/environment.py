"""What besides the settings decides the bits of a result, and what a resumed run must share."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("flwr", "torch", "torchvision", "numpy", "ray")


def surroundings() -> dict[str, Any]:
    """Versions, thread counts, platform and commit: what besides the settings decides the bits of a result."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "versions": {"python": platform.python_version(), **versions, "gpu": _gpu()},
        "threads": {"torch": torch.get_num_threads(), "torch-interop": torch.get_num_interop_threads()},
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "commit": os.environ.get("FLOTILLA_COMMIT") or commit(),
    }


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the surroundings that a resumed run must share. A commit or a host name alone need not change a bit."""
    return {f"{part}.{key}": value for part in ("versions", "threads") for key, value in config[part].items()}


def _gpu() -> str | None:
    """Name the accelerator and its CUDA version; None on a machine without."""
    if not torch.cuda.is_available():
        return None
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Name the commit of the code, "+" if it was changed since; None without git (an app bundle has no repository)."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():  # git would otherwise find a repository that merely surrounds the bundle
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
