"""A run of the local engine ends before its time: a signal came, or an app of somebody else's called `sys.exit`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(SystemExit):
    """The user wants the run to end; the engine cleans up on its way out, and the run's summary says stopped."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(128 + signum)

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


@contextmanager
def signals_stop() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `Stopped`; one that was ignored from the start, as `nohup` does, stays ignored."""

    def stop(signum: int, _frame: object) -> None:
        raise Stopped(signum)

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def code_of(end: SystemExit, *, learnt: bool) -> int:
    """The exit code of an app that called `sys.exit`, as Python's own; a text goes to standard error.

    Args:
        end: what `sys.exit` raised.
        learnt: whether a node has trained for it; without that, an end that claims success is a failure.
    """
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
        return 1
    code = end.code or 0
    if code == 0 and not learnt:
        print("flotilla: the app ended itself before any node had trained", file=sys.stderr)
        return 1
    return code & 0xFF or int(code != 0)
