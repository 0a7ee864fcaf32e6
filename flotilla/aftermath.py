"""What a run that did not finish leaves: a folder that agrees with itself, and the command that goes on with it."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_SIGNALLED = 128  # what the number of a signal that stopped a run is added to for the exit code


def aftermath(folder: Path | None, code: int, command: Sequence[str]) -> None:
    """Put the folder of a run that ended in order, and print on standard error how to go on with it.

    Args:
        folder: the run folder, as far as the app was told one.
        code: exit code of the run; 0 finished, so nothing is to be done.
        command: words that run the same again, without the settings, which the folder has.
    """
    if code == 0 or folder is None or not (folder / "config.json").is_file():
        return  # nothing was begun, or it is not an app of ours that was
    from server_app.folder.settle import settle_ended, stopped_by
    from server_app.report.page import write_report

    with suppress(OSError, ValueError):  # a full disk, or a file that somebody else damaged
        why = stopped_by(code - _SIGNALLED) if code - _SIGNALLED in set(signal.Signals) else ""
        if settle_ended(folder, why):  # the server was killed before it could write its summary
            write_report(folder)
    if any((folder / "checkpoints").glob("round-*.json")):
        again = shlex.join([*command, "--resume", str(_short(folder))])
        print(f"flotilla: go on with it: {again}", file=sys.stderr, flush=True)
    else:
        print("flotilla: no round was saved, so there is nothing to go on with", file=sys.stderr, flush=True)


def _short(folder: Path) -> Path:
    """The folder as seen from the working directory, where it is below it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
