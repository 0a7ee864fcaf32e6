from __future__ import annotations

import warnings
from itertools import count

import pytest

with warnings.catch_warnings():  # flwr's typer uses what its click calls deprecated; it says so once, on import
    warnings.simplefilter("ignore", DeprecationWarning)
    import flwr.app  # noqa: F401

from tests.support import Player


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Player:
    """Plays tiny runs; see `tests.support`."""
    root, numbers = tmp_path_factory.mktemp("runs"), count()
    return Player(lambda: root / f"run{next(numbers)}")
