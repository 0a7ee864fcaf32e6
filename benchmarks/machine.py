"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch


def machine() -> str:
    """One line: processor, cores, accelerators, versions, date."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    parts = [
        f"{os.cpu_count()} cores ({_processor()})",
        f"{gpus} GPU" if gpus else "no GPU",
        f"torch {torch.__version__}",
        f"Python {platform.python_version()}",
        f"{datetime.now(UTC):%Y-%m-%d}",
    ]
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
