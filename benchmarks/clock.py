"""How long one call takes: on the wall, or of the processor."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, process_time


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = perf_counter()
    work()
    return perf_counter() - began


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds that this process computes in one call."""
    began = process_time()
    work()
    return process_time() - began
