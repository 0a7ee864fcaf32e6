"""The two halves of somebody else's Flower app, found as its pyproject.toml names them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, TypeVar

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from flotilla.own_app import AppError, components

_Half = TypeVar("_Half")


def halves(app_dir: Path) -> tuple[ServerApp, ClientApp]:
    """Import both halves of an app, whose folder can be imported from.

    Raises:
        AppError: it names none, or what is not there; what its modules raise themselves goes through.
    """
    server, client = components(app_dir)
    return _half(app_dir, "serverapp", server, ServerApp), _half(app_dir, "clientapp", client, ClientApp)


def _half(app_dir: Path, key: str, path: str, kind: type[_Half]) -> _Half:
    module, _, names = path.partition(":")
    wrong = f"{app_dir / 'pyproject.toml'}: {key} = {path!r}: allowed is MODULE:NAME of a {kind.__name__}"
    if not module or not names:
        raise AppError(wrong)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # what the app imports, and not itself
            raise
        raise AppError(f"{wrong}; there is no module {error.name}") from None
    for name in names.split("."):
        if not hasattr(found, name):
            raise AppError(f"{wrong}; there is no {name} in {getattr(found, '__name__', module)}")
        found = getattr(found, name)
    if not isinstance(found, kind):
        raise AppError(f"{wrong}; that is a {type(found).__name__}")
    return found
