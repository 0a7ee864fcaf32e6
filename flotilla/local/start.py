"""Where workers come from: a fork server that has imported torch, Flower and the ClientApp before they are wanted.

A process of its own, so that no thread and no lock of this one is copied, as `fork` would; imports are paid once and
beside this process's own, where `spawn` pays them again for each worker: some five seconds of CPU each.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerContext, SpawnContext


def prepare_workers(*modules: str) -> ForkServerContext | SpawnContext:
    """Start the fork server, if it is not running: early, it imports while this process does other things.

    Args:
        modules: what it imports beside what every worker needs.

    Returns:
        How `multiprocessing` starts workers. Outside Linux by "spawn": what a system's library has begun there does not
        outlive a fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    forkserver.set_forkserver_preload([f"{__package__}.unceremonious", f"{__package__}.preloaded", *modules])
    with _deaf_to_interrupts():
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process started inside ignores Ctrl-C from its first moment on: that is its parent's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
