"""What is rewritten when packages move below another, and what stays as it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from build_hooks.rename import CannotRename, Renamer
from build_hooks.wheel import MOVED, PARENT, sources

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def renamer(tmp_path_factory: pytest.TempPathFactory) -> Renamer:
    root = tmp_path_factory.mktemp("repository")
    for name in (
        "models/__init__.py",
        "models/cost.py",
        "models/nets/__init__.py",
        "models/nets/cnn.py",
        "data/node.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Renamer(root, ["models", "data"], "ours")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from models import cost", "from ours.models import cost"),
        ("from models.nets.cnn import Net as N", "from ours.models.nets.cnn import Net as N"),
        ("import models", "from ours import models"),
        ("import models as m", "import ours.models as m"),
        ("import models.nets.cnn as cnn", "import ours.models.nets.cnn as cnn"),
        (
            "if x:\n    from data import (\n        a,\n        b,\n    )",
            "if x:\n    from ours.data import (\n        a,\n        b,\n    )",
        ),
        ("ä = 1; from data import b", "ä = 1; from ours.data import b"),
        ("x = 'models.nets.cnn:Net'", "x = 'ours.models.nets.cnn:Net'"),
        ("x = 'data.node._ASK'", "x = 'ours.data.node._ASK'"),
        ('"""See `models.cost` and\n`data.node.f`."""', '"""See `ours.models.cost` and\n`ours.data.node.f`."""'),
    ],
)
def test_is_rewritten(renamer: Renamer, before: str, after: str) -> None:
    assert renamer.rewrite(before, "x.py") == after


@pytest.mark.parametrize(
    "source",
    [
        "from . import models",
        "from .models import x",
        "from modelsx import y",
        "import dataclasses, database",
        "from theirs.models import cost",
        "models = models.cost",  # a variable
        "x = 'models'",  # a word
        "x = 'data.set'",  # no module
        "x = 'data.nodes'",
        "x = 'their.data.node'",
        "x = 'metadata.node'",
        "x = 'data.node.py'",
        "x = 'models/cost.py'",
        "x = f'{data.node} {models.cost}'",
        "# models.cost",
    ],
)
def test_stays(renamer: Renamer, source: str) -> None:
    assert renamer.rewrite(source, "x.py") == source


@pytest.mark.parametrize(
    "source",
    [
        "import models.cost",
        "import os, models",
        "import models.cost as c, os",
        "x = f'models.cost.{x}'",
        "from  models import x",
    ],
)
def test_is_refused(renamer: Renamer, source: str) -> None:
    with pytest.raises(CannotRename, match=r"^x\.py"):
        renamer.rewrite(source, "x.py")


@pytest.mark.parametrize("package", MOVED)
def test_lines_and_code_stay(package: str) -> None:
    """Of our own sources: every statement stays on its line, and nothing but imports and strings differs."""
    renamer = Renamer(ROOT, MOVED, PARENT)

    def shape(source: str) -> list[tuple[str, int]]:
        nodes = ast.walk(ast.parse(source))
        return [(type(node).__name__, getattr(node, "lineno", 0)) for node in nodes]

    files = [file for file in sources(ROOT, package) if file.suffix == ".py"]
    assert files
    for file in files:
        source = file.read_text()
        again = renamer.rewrite(source, file.name)
        assert shape(again) == shape(source)
        assert renamer.rewrite(again, file.name) == again
