"""What a device says of an error: a code and a sentence of ours. Names of files and exceptions' texts stay in its log.

flwr replies with the type and the text of whatever a ClientApp raises, and the text of an error of the file system, or
of an image library, names the file. What is raised here instead holds only words of the request and of this room.
"""

from __future__ import annotations

import re

from data import DataError
from models.errors import SettingError
from protocol import WireError, escaped

# Settings that a device has of its own: what they are, and what is wrong with what they name, concerns nobody else.
_OWN = frozenset({"data-root", "client-state"})
_PATH = re.compile(r"(?<![\w.])(?:/[^/\s'\"]+){2,}/?")

CODES = {
    "request": "the request cannot be met",
    "settings": "a setting of the run cannot be used here",
    "data": "the device's own data cannot be used",
    "memory": "the device has too little memory",
    "failed": "the device failed at it; its log says why",
}


class TaskFailed(RuntimeError):
    """What goes back in place of a reply.

    Args:
        code: one of `CODES`.
        detail: words of the request, or of ours.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        super().__init__(f"{code}: {CODES[code]}" + (f" ({detail})" if detail else ""))


def told(error: Exception) -> TaskFailed:
    """What may be said of an error."""
    if isinstance(error, DataError):
        return TaskFailed("data", error.told)
    if isinstance(error, SettingError):
        return TaskFailed("data") if error.key in _OWN else TaskFailed("settings", _plain(error))
    if isinstance(error, WireError):
        return TaskFailed("request", _plain(error))
    if isinstance(error, OSError):
        return TaskFailed("data")
    if isinstance(error, MemoryError):
        return TaskFailed("memory")
    return TaskFailed("failed", type(error).__name__)


def _plain(error: Exception) -> str:
    """The text of an error that is made of words of the request and of ours; a path of this machine is left out."""
    return escaped(_PATH.sub("a path", str(error)))
