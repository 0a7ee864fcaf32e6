"""Which code of the user's own a run follows: a digest of every package that an import path of its settings names."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping
from hashlib import sha256
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.common import log

from models.registry import is_path

_DIGITS = 12


def own_code(settings: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the Python files of the packages that settings name and that nobody has installed, by package.

    Args:
        settings: of the run; what they name has been imported.
    """
    named = {value.partition(":")[0].partition(".")[0] for value in settings.values() if _names_code(value)}
    return {name: _digest(root) for name in sorted(named) for root in _root(name)}


def warn_of_changes(before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Say so where a run goes on with other code than it began with: what it was is not to be had back.

    Args:
        before: what its configuration says of that; {} of a run that did not note it.
        now: from `own_code`.
    """
    for name, digest in now.items():
        if before.get(name, digest) != digest:
            line = "%s is not what it was when this run began (%s, now %s): the run goes on with what it is now"
            log(WARNING, line, name, before[name], digest)


def _names_code(value: object) -> bool:
    return isinstance(value, str) and is_path(value)


def _root(name: str) -> Iterator[Path]:
    """The folder or file of a package of the user's own; nothing of what is installed, which has a version."""
    file = getattr(sys.modules.get(name), "__file__", None)
    folders = [*getattr(sys.modules.get(name), "__path__", ())]
    root = Path(folders[0]) if folders else None if file is None else Path(file)
    if root is not None and not root.is_relative_to(sysconfig.get_path("purelib")):
        yield root


def _digest(root: Path) -> str:
    whole = sha256()
    for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
        text = file.read_bytes()
        whole.update(f"{file.relative_to(root)} {len(text)} ".encode() + text)
    return whole.hexdigest()[:_DIGITS]
