"""Flower's bundle of an app (FAB), built as `flwr build` builds it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class BundleError(ValueError):
    """The app cannot be bundled; one line."""


Change = Callable[[dict[str, Any]], dict[str, Any]]


def build_bundle(app_dir: Path, beside: Mapping[str, Path], change: Change | None = None) -> bytes:
    """Bundle an app after Flower's own check of its pyproject.toml.

    Args:
        app_dir: the app's folder.
        beside: further files, by their place in the bundle.
        change: given the app's pyproject.toml, what the bundle has in its place; Flower takes no setting that is not
            declared there.

    Raises:
        BundleError: Flower refuses it.
    """
    import click
    import tomli_w
    from flwr.cli.build import build_fab_from_files
    from flwr.cli.config_utils import load_and_validate
    from flwr.cli.utils import collect_files

    try:
        load_and_validate(app_dir / "pyproject.toml")
        files: dict[str, bytes | Path] = {**collect_files(app_dir), **beside}
        if change is not None:
            project = tomllib.loads((app_dir / "pyproject.toml").read_text(encoding="utf-8"))
            files["pyproject.toml"] = tomli_w.dumps(change(project)).encode()
        bundle, _ = build_fab_from_files(files)
    except (click.ClickException, ValueError, OSError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        raise BundleError(f"{app_dir} cannot be bundled: {' '.join(text.split())}") from error
    return bundle
