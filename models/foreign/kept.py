"""Exported graphs that are kept on disk: a process that meets a network for the first time need not export it again.

A device that handles every message in a process of its own would otherwise export its network for each. A file is
found by what the network is made from (`key`), and believed if that is as it was: versions of installed packages, and
the sources of all other modules that were loaded. It is data and runs no code (`stored`); what is
found in it is compared with the server's fingerprint as if it had been exported. Other files that a factory reads are
not seen: `FLOTILLA_CACHE=none` keeps nothing (`models.cache_folder`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from pathlib import Path
from sysconfig import get_paths
from types import ModuleType

from torch import fx, nn

from models.cache_folder import private_folder
from models.foreign.stored import NotStorable, from_bytes, to_bytes

_FILES, _BYTES = 64, 64 * 2**20  # kept at most; of one file
_PACKAGES = ("site-packages", "dist-packages")
_PYTHON = get_paths()["stdlib"]
_MAIN = ("__main__", "__mp_main__")  # another file in every process
_KIND = "networks"


def made_by(make: Callable[..., object]) -> tuple[str, str]:
    """The Python module that a factory is in, "" if that says nothing of what it makes, and how it is called there."""
    told = list[object]()
    while isinstance(make, partial):
        told.append([make.args, make.keywords])
        make = make.func
    name = getattr(make, "__qualname__", None)
    try:
        return (make.__module__ if name else "", json.dumps([name, *told]))
    except (TypeError, ValueError):  # a partial of what has no text, such as a class of layers
        return "", ""


def key(*made_from: str) -> str:
    """Name of the file of a network, by what it is made from: the factory, and what it is told."""
    return sha256(json.dumps([*made_from, sys.version]).encode()).hexdigest()[:32]


def read(name: str) -> tuple[nn.Module, dict[bool, fx.GraphModule]] | None:
    """A module's skeleton and its graphs; None where none are kept that can be believed."""
    where = private_folder(_KIND)
    if where is None:
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
    where, source = private_folder(_KIND), sys.modules.get(factory)
    if where is None or factory in _MAIN or not (_is_own(source) or _is_installed(source)):
        return
    with suppress(OSError, ImportError, NotStorable):
        data = json.dumps(_made_with()).encode() + b"\n" + to_bytes(module, graphs)
        if len(data) > _BYTES:
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


def _made_with() -> dict[str, dict[str, str]]:
    """Versions of the installed packages that are loaded, and digests of the sources of all other modules that are."""
    distributions, versions = packages_distributions(), dict[str, str]()
    for name in {name.partition(".")[0] for name, module in list(sys.modules.items()) if _is_installed(module)}:
        versions |= {one: version(one) for one in distributions.get(name, ())}
    own = [name for name, module in list(sys.modules.items()) if name not in _MAIN and _is_own(module)]
    return {"sources": {name: _digest(name) for name in sorted(own)}, "versions": versions}


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
        found = _found(name)
        file = None if found is None else found.origin
    if file is None:
        raise ImportError(name)
    return sha256(Path(file).read_bytes()).hexdigest()


def _found(name: str) -> ModuleSpec | None:
    """Where a module would come from; unlike `importlib.util.find_spec` this runs nothing of the packages it is in."""
    found, parts = None, name.split(".")
    for count in range(1, len(parts) + 1):
        path = None if found is None else found.submodule_search_locations
        places = (finder.find_spec(".".join(parts[:count]), path) for finder in sys.meta_path)
        found = next((one for one in places if one is not None), None)
        if found is None or (count < len(parts) and found.submodule_search_locations is None):
            return None
    return found


def _is_installed(module: ModuleType | None) -> bool:
    file = _file_of(module)
    return file is not None and any(one in file.parts for one in _PACKAGES)


def _is_own(module: ModuleType | None) -> bool:
    """Whether a module is neither Python's nor an installed package's."""
    file = _file_of(module)
    return file is not None and not _is_installed(module) and not file.is_relative_to(_PYTHON)


def _file_of(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    # Not absolute are only those of modules that are made up, such as `torch.ops`.
    return Path(file) if isinstance(file, str) and Path(file).is_absolute() else None
