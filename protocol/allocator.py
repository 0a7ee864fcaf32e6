"""Keep large buffers in the process instead of giving them back to the system after every message.

glibc maps every block above a threshold anew and unmaps it when it is freed, so each message of some megabytes pays for
its pages again: half of the overhead of a simulated round (docs/flower.md). Training profits as well.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 1 << 25  # the largest value that glibc takes for the second


def keep_large_buffers() -> None:
    """Set both thresholds; does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _MOST)
    mallopt(_TRIM_THRESHOLD, 1 << 30)
