"""No two files import each other, directly or through others."""

from __future__ import annotations

import ast

import pytest

from benchmarks.probes.structure import PACKAGES, cycles, imported, modules, tree


def test_no_import_goes_round() -> None:
    known = modules(*PACKAGES)
    assert len(known) > 200
    assert cycles({name: set(imported(tree(file), known)) for name, file in known.items()}) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import b",
        "from b import x",
        "def f():\n    from b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import x",
    ],
)
def test_a_cycle_is_found(statement: str) -> None:
    sources = {"a": statement, "b": "import c", "c": "import a", "d": "import a"}
    imports = {name: set(imported(ast.parse(source), sources)) for name, source in sources.items()}
    assert cycles(imports) == [{"a", "b", "c"}]


def test_a_module_of_a_package_is_not_the_package() -> None:
    known = {"a": None, "a.b": None}
    assert list(imported(ast.parse("from a import b, c"), known)) == ["a.b", "a"]
