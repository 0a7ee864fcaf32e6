"""Where this machine keeps what is costly to make again: decoded pictures, exported graphs.

`$FLOTILLA_CACHE`, else `$XDG_CACHE_HOME/flotilla`, else `~/.cache/flotilla`; `FLOTILLA_CACHE=none` keeps nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_IMODE

VARIABLE, NOTHING = "FLOTILLA_CACHE", "none"


def cache_folder(kind: str) -> Path | None:
    """The folder for one kind of thing, which may not exist yet; None where nothing is to be kept."""
    told = os.environ.get(VARIABLE, "")
    if told == NOTHING:
        return None
    try:
        root = Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flotilla"
    except RuntimeError:  # a user without a home
        return None
    return root / kind


def private_folder(kind: str) -> Path | None:
    """The folder for one kind of thing, made if missing; None where that fails, or others can write there."""
    found = cache_folder(kind)
    if found is None:
        return None
    try:
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = found.stat()
    except OSError:
        return None
    return found if told.st_uid == os.getuid() and not S_IMODE(told.st_mode) & 0o022 else None
