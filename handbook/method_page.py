"""The pages of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from handbook.navigation import METHODS as PLACE
from handbook.navigation import file_of
from handbook.told import summary
from strategies import METHODS


def method_pages(root: Path, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """Content of the pages by folder and file.

    Args:
        root: the repository, whose documents are read.
        names: of methods.
    """
    del root
    lines = [f"| `{name}` | {summary(METHODS[name])} |" for name in names]
    index = "\n".join(["# Methods", "", "| `method` | what it is |", "| --- | --- |", *lines, ""])
    return {PLACE: {"index.md": index, **{file_of(name): f"# {name}\n" for name in names}}}
