"""Flower's bundle of an app (FAB), built as `flwr build` builds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class BundleError(ValueError):
    """The app cannot be bundled; one line."""


def build_bundle(app_dir: Path, beside: Mapping[str, Path]) -> bytes:
    """Bundle an app after Flower's own check of its pyproject.toml.

    Args:
        app_dir: the app's folder.
        beside: further files, by their place in the bundle.

    Raises:
        BundleError: Flower refuses it.
    """
    import click
    from flwr.cli.build import build_fab_from_files
    from flwr.cli.config_utils import load_and_validate
    from flwr.cli.utils import collect_files

    try:
        load_and_validate(app_dir / "pyproject.toml")
        bundle, _ = build_fab_from_files({**collect_files(app_dir), **beside})
    except (click.ClickException, ValueError, OSError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        raise BundleError(f"{app_dir} cannot be bundled: {' '.join(text.split())}") from error
    return bundle
