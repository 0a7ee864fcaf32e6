"""In a checkout: `flotilla.strategies` is the package `strategies`, so that what is written for the wheel runs here.

In a wheel the packages stand below `flotilla` (build_hooks/wheel.py) and this file does not exist. Here they stand
beside it; each name below `flotilla` gives the very module that its short name gives, never a second copy.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGES = {"models", "protocol", "data", "strategies", "client_app", "server_app"}
_PREFIX = "flotilla."


class _Same(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `flotilla.x.y` as `x.y`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(_PREFIX)
        if name == fullname or name.partition(".")[0] not in _PACKAGES:
            return None
        try:
            real = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            return None
        is_package = real is not None and real.submodule_search_locations is not None
        return None if real is None else ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.removeprefix(_PREFIX))
        spec.loader_state = module.__spec__  # the import system is about to overwrite it
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def install() -> None:
    """Make the names known, once."""
    if not any(isinstance(finder, _Same) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Same())  # before the finder that would load a package's files a second time
