"""Exported graphs that are kept on disk: a process that meets a network for the first time need not export it again.

A device that handles every message in a process of its own would otherwise export its network for each. A file is
found by what the network is made from (`key`), and believed if that is as it was: versions of installed packages, and
the sources of the factory's module and of what it uses besides them. It is data and runs no code (`stored`); what is
found in it is compared with the server's fingerprint as if it had been exported. Other files that a factory reads are
not seen: `FLOTILLA_CACHE=none` keeps nothing (`models.cache_folder`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from stat import S_IMODE
from sysconfig import get_paths
from types import ModuleType

from torch import fx, nn

from models.cache_folder import cache_folder
from models.foreign.stored import NotStorable, from_bytes, to_bytes

_FILES, _BYTES = 64, 64 * 2**20  # kept at most; of one file
_PACKAGES = ("site-packages", "dist-packages")
_PYTHON = get_paths()["stdlib"]


def folder() -> Path | None:
    """Where graphs are kept; None: nowhere."""
    return cache_folder("networks")


def key(*made_from: str) -> str:
    """Name of the file of a network, by what it is made from: the factory, and what it is told."""
    return sha256(json.dumps([*made_from, sys.version]).encode()).hexdigest()[:32]


def read(name: str) -> tuple[nn.Module, dict[bool, fx.GraphModule]] | None:
    """A module's skeleton and its graphs; None where none are kept that can be believed."""
    where = folder()
    if where is None or not _private(where):
        return None
    file = where / name
    try:
        if file.stat().st_size > _BYTES:
            return None
        head, _, data = file.read_bytes().partition(b"\n")
        made_with = json.loads(head)
        if not _unchanged(made_with["sources"], made_with["versions"]):
            return None
        found = from_bytes(data)
        os.utime(file)  # what is used stays longest
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or somebody else's, or damaged
        return None
    return found


def write(name: str, factory: str, module: nn.Module, graphs: Mapping[bool, fx.GraphModule]) -> None:
    """Keep a module's graphs where that can be done; else nothing happens.

    Args:
        name: of the file.
        factory: the Python module that the factory is in.
        module: what it gave.
        graphs: of that, by whether it trains.
    """
    where = folder()
    if where is None or factory == "__main__":
        return
    with suppress(OSError, ImportError, NotStorable):
        data = json.dumps(_made_with(factory)).encode() + b"\n" + to_bytes(module, graphs)
        if len(data) > _BYTES:
            return
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(where):
            return
        handle, path = tempfile.mkstemp(dir=where, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(path).replace(where / name)
        except OSError:
            Path(path).unlink(missing_ok=True)
            raise
        for old in sorted(where.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)[_FILES:]:
            old.unlink(missing_ok=True)


def _private(where: Path) -> bool:
    """Whether nobody else can write there."""
    try:
        told = where.stat()
    except OSError:
        return False
    return told.st_uid == os.getuid() and not S_IMODE(told.st_mode) & 0o022


def _made_with(factory: str) -> dict[str, dict[str, str]]:
    """Versions of the installed packages that are loaded, and digests of the factory's own sources."""
    distributions, versions = packages_distributions(), dict[str, str]()
    for name in {name.partition(".")[0] for name, module in list(sys.modules.items()) if _is_installed(module)}:
        versions |= {one: version(one) for one in distributions.get(name, ())}
    own = _reached(factory)
    tops = {name.partition(".")[0] for name in own}
    own |= {name for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops and _is_own(module)}
    return {"sources": {name: _digest(name) for name in sorted(own)}, "versions": versions}


def _reached(factory: str) -> set[str]:
    """Modules that a factory's module uses, and that are part of no installed package."""
    reached, waiting = set[str](), [factory]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in reached or not _is_own(module):
            continue
        reached.add(name)
        for value in list(vars(module).values()):
            used = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(used, str):
                waiting.append(used)
    return reached


def _unchanged(sources: Mapping[str, str], versions: Mapping[str, str]) -> bool:
    try:
        return all(version(name) == was for name, was in versions.items()) and all(
            _digest(name) == was for name, was in sources.items()
        )
    except (OSError, ImportError, ValueError):
        return False


def _digest(name: str) -> str:
    """Digest of the source file that a module has here, or would have."""
    module = sys.modules.get(name)
    if module is not None:
        file = module.__file__
    else:
        found = find_spec(name)
        file = None if found is None else found.origin
    if file is None:
        raise ImportError(name)
    return sha256(Path(file).read_bytes()).hexdigest()


def _is_installed(module: ModuleType | None) -> bool:
    file = _file_of(module)
    return file is not None and any(one in file.parts for one in _PACKAGES)


def _is_own(module: ModuleType | None) -> bool:
    """Whether a module is neither Python's nor an installed package's."""
    file = _file_of(module)
    return file is not None and not _is_installed(module) and not file.is_relative_to(_PYTHON)


def _file_of(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None
