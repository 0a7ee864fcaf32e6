"""One run of a sweep, in a process of its own: its words go to a file, and it ends when the sweep does.

What is imported here is imported once, in the process that the runs are forked from (`flotilla.local.start`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path
from time import process_time

import torch

from flotilla.local import run_local
from flotilla.local.stopped import Stopped, signals_stop
from flotilla.settings import Value
from flotilla.user_code import make_importable
from models.errors import SettingError
from server_app import run as _run  # noqa: F401 (so that a forked process has it)

# Of torch, in a run: whatever stands beside it, so that a run that goes on finds as many as it had.
THREADS = 1
PROCESSOR = "{} seconds of the processor"  # of this process: last line of a run that finished


def run_one(config: Mapping[str, Value], nodes: int, processes: int, log: Path, packages: Mapping[str, Path]) -> None:
    """Run and exit: 0 finished; 1 failed, and the last line of the log says why; 143 stopped.

    Args:
        config: every setting.
        nodes: devices to simulate.
        processes: clients that train at once; 0 is in this process.
        log: file for everything that is said.
        packages: the user's own, by name.
    """
    torch.set_num_threads(THREADS)
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
        _end_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the sweep tells us
        make_importable(packages)
        try:
            with signals_stop():
                code = run_local(config, nodes, processes, packages)
        except Stopped as stopped:
            code = 128 + stopped.signum
        except BaseException as error:
            traceback.print_exc()
            said = str(error) if isinstance(error, SettingError) else f"{type(error).__name__}: {error}"
            print(" ".join(said.split()), file=sys.stderr)
            code = 1
        if not code:  # the last line of one that failed says why
            print(PROCESSOR.format(f"{process_time():.2f}"))
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _end_with_parent() -> None:
    """Stop as if told to when the sweep is gone, however it went: its next start finds no run that still writes."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
