"""The end of a process that has imported PyTorch: taking a million objects apart takes a second, and is for nothing."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Where what is inside ends the process by `sys.exit` and PyTorch is there, let the system take its memory back.

    Threads are waited for, what is registered to be done at the end is done, and what was printed is out, as ever.
    """
    try:
        yield
    except SystemExit as end:
        wait, run = getattr(threading, "_shutdown", None), getattr(atexit, "_run_exitfuncs", None)
        if "torch" not in sys.modules or not isinstance(end.code, int | None) or wait is None or run is None:
            raise
        wait()  # as Python itself does, in this order
        run()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # whoever read it has gone
                stream.flush()
        os._exit((end.code or 0) & 0xFF)
