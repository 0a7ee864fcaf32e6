"""Values are built by name: no construction with more than four positional arguments, records by keyword."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.probes.structure import PACKAGES, Names, constructions, modules, tree

MOST, LEADING = 4, 3  # positional arguments of a construction, positional fields of a record
FILES = modules(*PACKAGES, "tests", "examples")


@pytest.fixture(scope="module")
def names() -> Names:
    return Names(FILES)


def test_no_construction_has_more_than_four_positional_arguments(names: Names) -> None:
    made = [made for name, file in FILES.items() for made in constructions(names, name, tree(file))]
    assert len(made) > 3000
    assert [one for one in made if one.positional > MOST] == []


def test_records_above_three_fields_take_the_rest_by_keyword(names: Names) -> None:
    records = {one.name: fields for one in names.classes() if (fields := names.fields(one.name)) is not None}
    assert len(records) > 100
    assert [
        name
        for name, fields in records.items()
        if len(fields) > LEADING and sum(not by_name for _, by_name in fields) > LEADING
    ] == []


SOURCES = {
    "a": "from dataclasses import KW_ONLY, dataclass, field\n"
    "@dataclass\nclass Five:\n    a: int\n    b: int\n    c: int\n    d: int\n    e: int = 0\n"
    "@dataclass(frozen=True, kw_only=True)\nclass Named:\n    a: int\n    b: int\n    c: int\n    d: int\n"
    "@dataclass\nclass Mixed:\n    a: int\n    _: KW_ONLY\n    b: int\n    c: int\n    d: int\n"
    "@dataclass\nclass Child(Five):\n    f: int = field(default=1, kw_only=True)\n"
    "class Plain:\n    def __init__(self, a, b, c, d, e): ...\n"
    "class Heir(Plain): ...\n"
    "def lower(*_): ...\n",
    "b": "from a import Five as record\nimport a\n",
}


@pytest.mark.parametrize(
    ("call", "positional"),
    [
        ("record(1, 2, 3, 4, 5)", [5]),
        ("record(1, 2, 3, 4, e=5)", [4]),
        ("record(*values)", [5]),
        ("a.Mixed(*values)", [1]),
        ("a.Heir(1, *values)", [5]),
        ("a.Child(*values)", [5]),
        ("torch.nn.Conv2d(1, 2, 3, 4, 5)", [5]),
        ("cls(1, 2, 3, 4, 5)", [5]),
        ("a.lower(1, 2, 3, 4, 5)", []),
        ("CONSTANT(1, 2)", []),
    ],
)
def test_constructions_are_found(tmp_path: Path, call: str, positional: list[int]) -> None:
    for name, source in SOURCES.items():
        (tmp_path / f"{name}.py").write_text(source + (call if name == "b" else ""))
    files = {name: tmp_path / f"{name}.py" for name in SOURCES}
    found = constructions(Names(files), "b", tree(files["b"]))
    assert [made.positional for made in found] == positional


def test_fields_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCES["a"])
    names = Names({"a": tmp_path / "a.py"})
    by_name = {one.name: [keyword for _, keyword in names.fields(one.name) or []] for one in names.classes()}
    assert by_name == {
        "a.Five": [False] * 5,
        "a.Named": [True] * 4,
        "a.Mixed": [False, True, True, True],
        "a.Child": [*[False] * 5, True],
        "a.Plain": [],
        "a.Heir": [],
    }
