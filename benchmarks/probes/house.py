"""The house in figures: files of every room, long files, keys, arguments by place.

Reads a checkout (`--root`, default this one) as text, so that two of them can be held against each other; runs nothing
of it. "Switches" of a request between files are counted by the probe `trace`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

from benchmarks.probes.structure import PACKAGES, ROOT, Names, constructions, cycles, imported, modules, tree
from benchmarks.task import Command, Options

LONG, POSITIONAL = 300, 4  # lines of a file; positional arguments of a construction


def rooms(root: Path) -> Counter[str]:
    """Files of every folder, packages' own `__init__` left out."""
    files = modules(*PACKAGES, folder=root).values()
    return Counter(str(file.parent.relative_to(root)) for file in files if file.name != "__init__.py")


def long_files(root: Path) -> dict[str, int]:
    """Modules above `LONG` lines, the longest first."""
    lines = {name: len(file.read_text().splitlines()) for name, file in modules(*PACKAGES, folder=root).items()}
    return {name: count for name, count in sorted(lines.items(), key=lambda item: -item[1]) if count > LONG}


def figures(root: Path) -> dict[str, int]:
    """What the house is measured by, each a count."""
    files, tests = modules(*PACKAGES, folder=root), modules("tests", "examples", folder=root)
    imports = {name: set(imported(tree(file), files)) - {name} for name, file in files.items()}
    every = files | tests
    names = Names(every)
    made = [one for name, file in every.items() for one in constructions(names, name, tree(file))]
    config = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    contracts = config["importlinter"]["contracts"]
    return {
        "files": len(files),
        f"files over {LONG} lines": len(long_files(root)),
        "import cycles": len(cycles(imports)),
        "contracts between packages": sum(one["type"] == "forbidden" for one in contracts),
        "contracts between rooms": sum(one["type"] == "layers" for one in contracts),
        "keys of the run configuration": len(config["flwr"]["app"]["config"]),
        "constructions": len(made),
        f"constructions with over {POSITIONAL} positional arguments": sum(one.positional > POSITIONAL for one in made),
        "lines that the formatter leaves": sum(file.read_text().count("# fmt: " + "skip") for file in every.values()),
    }


def _run(options: Options) -> int:
    """Print the figures of a checkout."""
    root = options.root.resolve()
    print("files per room")
    for room, count in sorted(rooms(root).items()):
        print(f"  {room:<40} {count:>4}")
    print(f"files over {LONG} lines")
    for name, lines in long_files(root).items():
        print(f"  {name:<40} {lines:>4}")
    print("in all")
    for what, number in figures(root).items():
        print(f"  {what:<50} {number:>5}")
    return 0


TASK = Command(_run, defaults={"root": ROOT})
