"""Files that a crash leaves whole, and JSON that is valid whatever the numbers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Turn a value into JSON: NaN and infinities are null, numpy and torch scalars numbers, the unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return plain(value.item()) if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else str(value)


def dumps(value: Any, indent: int | None = None) -> str:
    """Write valid JSON, whatever the numbers (see :func:`plain`) and texts: half a surrogate pair is escaped."""
    return encodable(json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False))


def encodable(text: str) -> str:
    """A text that UTF-8 can hold: half a surrogate pair, as in a file name that is no UTF-8, becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def replace_text(file: Path, text: str) -> None:
    """Write a file so that a reader, and the disk after a crash, has the old text or the new one, whole."""
    temporary = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(encodable(text))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk: a rename is durable only then."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
