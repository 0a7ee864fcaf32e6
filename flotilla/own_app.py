"""Which Flower app a command is about, and what belongs to Flotilla's own.

Given none, it is the one in the working directory, and where there is none Flotilla's own: in a checkout the folder of
the repository, in an installed wheel a folder of the package that holds a pyproject.toml and no code. The code of the
wheel's app is the package itself, so it is put into the bundle beside that file: a device needs no wheel to run it, and
what runs is what is installed where the run was started.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer

from flotilla.user_code import UserCodeError, extension_of

APP_DIR = typer.Argument(
    metavar="[APP]", help="Folder of the Flower app; default: the working directory if it is one, else Flotilla's own."
)
WITH = typer.Option(
    "--with", metavar="FOLDER", help="Package of your own, or a folder of them, that goes with the run; repeatable."
)
_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "app_folder"  # made by build_hooks/wheel.py; a checkout has none
# As an app names them that uses the installed package.
_SERVER_APP, _CLIENT_APP = "flotilla.server_app.app:app", "flotilla.client_app.app:app"


class AppError(ValueError):
    """An app that cannot be run as it is; its text is one line for the user."""


def own_app() -> Path:
    """Find the folder of Flotilla's own Flower app."""
    return _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent


def chosen_app(given: Path | None) -> Path:
    """Find the folder of the app that is meant; absolute.

    Args:
        given: what the user said; None: the working directory if it holds a Flower app, else Flotilla's own.
    """
    if given is not None:
        return given.expanduser().resolve()
    here = Path.cwd()
    return here if _flower(here) or extends_ours(here) else own_app()


def extends_ours(folder: Path) -> bool:
    """Whether a folder says what differs from Flotilla's own app (`flotilla.user_code`)."""
    try:
        return extension_of(folder) is not None
    except UserCodeError:  # said when it is used
        return True


def runs_our_server(app_dir: Path) -> bool:
    """Whether an app's server half is Flotilla's, so that Flotilla's settings and checks are the app's."""
    components = _flower(app_dir).get("components", {})
    installed = isinstance(components, dict) and components.get("serverapp") == _SERVER_APP
    return installed or (app_dir / "server_app" / "config" / "resolve.py").is_file()  # a checkout


def runs_ours(app_dir: Path) -> bool:
    """Whether both halves of an app are Flotilla's."""
    named = _flower(app_dir).get("components", {})
    client = named.get("clientapp") if isinstance(named, dict) else None
    checkout = client == "client_app.app:app" and (app_dir / "client_app" / "handlers.py").is_file()
    return runs_our_server(app_dir) and (checkout or client == _CLIENT_APP)


def components(app_dir: Path) -> tuple[str, str]:
    """An app's server half and client half, each as `module:name`.

    Raises:
        AppError: it names none.
    """
    named = _flower(app_dir).get("components")
    if not isinstance(named, dict) or not all(isinstance(named.get(key), str) for key in ("serverapp", "clientapp")):
        wanted = "[tool.flwr.app.components] with serverapp and clientapp, each as MODULE:NAME"
        raise AppError(f"{app_dir / 'pyproject.toml'}: allowed is {wanted}")
    return named["serverapp"], named["clientapp"]


def code_beside(app_dir: Path) -> dict[str, Path]:
    """List the files that an app's bundle has beside those in its folder, by their place in the bundle."""
    if app_dir != _INSTALLED:
        return {}
    files = (path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".toml") and path.parent != _INSTALLED)
    return {f"{_PACKAGE.name}/{path.relative_to(_PACKAGE).as_posix()}": path for path in files}


def _flower(folder: Path) -> dict[str, Any]:
    """Read `[tool.flwr.app]` of a folder's pyproject.toml; empty where there is none to be read."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return dict(project["tool"]["flwr"]["app"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
