"""What this device has: memory and cores that this process may use, how fast they multiply, and whether bfloat16."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil
import torch
from torch.nn import functional as F

_CGROUP = Path("/sys/fs/cgroup")
_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # instructions: x86's, and arm64's
_TURNS = 5  # of a measurement, of which the median counts; one more before them warms up


def memory(device: torch.device, root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup")) -> tuple[int, int]:
    """Bytes that the training device has in all, and that are free now.

    On a CPU the host's memory or what the process's control groups allow (version 1 or 2), whichever is less. Of what a
    group uses, file cache that nobody uses counts as free.

    Args:
        device: where training takes place.
        root: where control groups are mounted.
        process: which groups the process is in.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(total), int(free)
    host = psutil.virtual_memory()
    total, available = int(host.total), int(host.available)
    for folder in _groups("memory", root, process):
        for most, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(folder / most)
            if limit is not None and 0 < limit < host.total:
                spare = _statistic(folder / "memory.stat", cache)
                total = min(total, limit)
                available = min(available, max(0, limit - (_number(folder / used) or 0) + spare))
    return total, available


def cores(root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that this process may use at once: its affinity or its control groups' quota, whichever is less."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _groups("cpu", root, process):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit():
            quota, period = int(words[0]), int(words[1])
        if quota is not None and quota > 0 and period:
            count = min(count, quota / period)
    return count


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 numbers itself.

    With one that does not, PyTorch takes several times as long as in float32: 7 times for a CNN on a CPU with AVX2
    (docs/results.md).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type != "cpu" or any(torch.cpu.get_capabilities().get(one, False) for one in _BFLOAT16)


def matmul_rate(device: torch.device, size: int = 512) -> float:
    """FLOP/s of float32 matrix products, with the threads that torch has now."""
    a = torch.ones(size, size, device=device)
    return 2 * size**3 / seconds(lambda: a @ a, device)


def convolution_rate(device: torch.device, channels: int = 32, side: int = 32, batch: int = 4) -> float:
    """FLOP/s of float32 3x3 convolutions."""
    x = torch.ones(batch, channels, side, side, device=device)
    kernel = torch.ones(channels, channels, 3, 3, device=device)
    flop = 2 * batch * channels * channels * 9 * side * side
    return flop / seconds(lambda: F.conv2d(x, kernel, padding=1), device)


def seconds(work: Callable[[], object], device: torch.device, turns: int = _TURNS) -> float:
    """Median seconds of a piece of work, after one turn that does not count."""
    times = []
    for _ in range(turns + 1):
        began = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(perf_counter() - began)
    return median(times[1:])


def _groups(controller: str, root: Path, process: Path) -> Iterator[Path]:
    """The control groups that limit this process, from its own to the outermost, of either version."""
    for line in _text(process).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = root / controllers
        else:
            continue
        place = base / path.lstrip("/")
        while place != base and base in place.parents:
            yield place
            place = place.parent
        yield base


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _statistic(file: Path, name: str) -> int:
    for line in _text(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
