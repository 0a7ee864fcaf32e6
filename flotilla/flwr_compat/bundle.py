"""Flower's bundle of an app (FAB), built as `flwr build` builds it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
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


def collect_files(app_dir: Path) -> dict[str, Path]:
    """Find what may go into a bundle: what Flower's function of that name finds, less what Flower then drops.

    Flower (1.41) looks at every file below the folder and only then asks its own rules and .gitignore; an environment
    beside an app has 50,000, which is seconds.

    Args:
        app_dir: the app's folder.

    Returns:
        Path by place in the bundle. Links are left out.
    """
    root = app_dir.resolve()
    return {path.relative_to(root).as_posix(): path for path in _walk(root)}


def _walk(root: Path) -> Iterator[Path]:
    """Files that are no links, without folders of which nothing can get into a bundle."""
    from flwr.cli.utils import build_pathspec, load_gitignore_patterns
    from flwr.supercore.constant import APP_PUBLISH_EXCLUDE_PATTERNS

    ignore = root / ".gitignore"
    ignored = load_gitignore_patterns(ignore.read_bytes() if ignore.is_file() and not ignore.is_symlink() else b"")
    specs = [build_pathspec(APP_PUBLISH_EXCLUDE_PATTERNS)]
    if not any(pattern.startswith("!") for pattern in ignored):  # which may take one file back out of a folder
        specs.append(build_pathspec(ignored))
    for folder, folders, names in os.walk(root):
        below = Path(folder).relative_to(root)
        folders[:] = [
            name for name in folders if not any(spec.match_file(f"{(below / name).as_posix()}/") for spec in specs)
        ]
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                yield path
