"""Nobody but two rooms, and one file of a third, imports what flwr does not promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.flotilla.flwr_compat.borrowed import private_imports

ROOT = Path(__file__).parents[3]
ROOMS = ("flotilla/flwr_compat", "server_app/flwr_patches", "protocol/secure/flwr_blocks.py")
PACKAGES = ("models", "protocol", "data", "strategies", "client_app", "server_app", "flotilla", "benchmarks")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_private_modules_of_flwr_come_through_the_door(file: Path) -> None:
    if not any(file.is_relative_to(ROOT / room) for room in ROOMS):
        assert list(private_imports(file.read_text(encoding="utf-8"))) == []


PROGRAMS = [
    *(
        "actor_pool",
        "app_process",
        "bundle_code",
        "cluster_nodes",
        "executor",
        "load_app",
        "node_tasks",
        "quick_simulation",
    ),
    *("ray_ahead", "ray_backend", "ray_cluster", "ray_worker", "readiness", "supernode", "warm_app"),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_import_nothing_of_ours(program: str) -> None:
    source = (ROOT / "flotilla" / "flwr_compat" / f"{program}.py").read_text(encoding="utf-8")
    ours = "|".join((*PACKAGES, "tests"))
    assert re.findall(rf"^\s*(?:from|import) (?:{ours})\b.*", source, re.M) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from flwr.app import Message", []),
        ("from flwr.serverapp.strategy import Result", []),
        ("from flwr import serverapp", []),
        ("from flwr.common import log", []),
        ("import flwr.app", []),
        ("from flowers import supercore", []),
        ("from flwr.common import serde", [("flwr.common", "serde")]),
        ("from flwr.common.serde import x", [("flwr.common.serde", "x")]),
        ("def f():\n    from flwr.proto import message_pb2", [("flwr.proto", "message_pb2")]),
        ("import flwr.supercore.run", [("flwr.supercore.run", "")]),
        ("import flwr", [("flwr", "")]),
        ("f('flwr.supercore.run')", [("flwr.supercore.run", "")]),
        ("f('flwr.app is public')", []),
    ],
)
def test_the_check_itself(source: str, found: list[tuple[str, str]]) -> None:
    assert list(private_imports(source)) == found
