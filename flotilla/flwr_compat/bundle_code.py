"""A bundle unpacked before flwr asks for it, with the bytecode that its files have already been compiled to.

flwr unpacks a bundle anew for every run, so that every process of a run would compile its modules again: some three
seconds for Flotilla's own. Loaded by path, like the program that uses it; nothing of ours is imported here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.util import cache_from_source
from pathlib import Path


def unpack(bundle: Path, originals: Sequence[Path]) -> Path:
    """Unpack a bundle where flwr will look for it, and return the folder.

    Args:
        bundle: from `flotilla.flwr_compat.bundle.build_bundle`.
        originals: folders with files that went into it; those with the same text and place lend their bytecode.
    """
    from flwr.cli.install import install_from_fab

    folder: Path = install_from_fab(bundle.read_bytes(), skip_prompt=True)
    for copy, original in _pairs(folder, originals):
        with contextlib.suppress(OSError):
            times = original.stat()
            os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))  # by which bytecode knows its source
        _lend(Path(cache_from_source(str(original))), Path(cache_from_source(str(copy))))
    return folder


def keep_bytecode(folder: Path, originals: Sequence[Path]) -> None:
    """Keep what this run has compiled beside the originals, for the next one."""
    for copy, original in _pairs(folder, originals):
        compiled, kept = Path(cache_from_source(str(copy))), Path(cache_from_source(str(original)))
        if compiled.is_file() and original.stat().st_mtime_ns == copy.stat().st_mtime_ns and not _same(compiled, kept):
            _lend(compiled, kept)


def _pairs(folder: Path, originals: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """The modules of an unpacked bundle, each with a file that has the same place and text."""
    if sys.dont_write_bytecode:
        return
    for copy in sorted(folder.rglob("*.py")):
        for root in originals:
            original = root / copy.relative_to(folder)
            if original.is_file() and _same(copy, original):
                yield copy, original
                break


def _same(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def _lend(source: Path, target: Path) -> None:
    """Copy a file in one step; where it is not there or cannot be written, nothing happens."""
    staged = target.with_name(f"{target.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, staged)
        staged.replace(target)
