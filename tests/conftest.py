from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from itertools import count
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

with warnings.catch_warnings():  # flwr's typer uses what its click calls deprecated; it says so once, on import
    warnings.simplefilter("ignore", DeprecationWarning)
    import flwr.app  # noqa: F401

from strategies.exchange.messaging import exchange
from tests.support import Player, Time

os.environ.setdefault("FLOTILLA_CACHE", "none")  # no test leaves anything at the user's, nor finds it there

# Two busy cores: time says nothing about an example, nor about how it was drawn.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is decoded is kept in a folder of this session, in processes that it starts too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FLOTILLA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Player:
    """Plays tiny runs; see `tests.support`."""
    root, numbers = tmp_path_factory.mktemp("runs"), count()
    return Player(lambda: root / f"run{next(numbers)}")


@pytest.fixture
def own_time() -> Iterator[Time]:
    """Exchanges with the nodes take no wall time: only who is silent misses a deadline, not who is slow."""
    time = Time()
    with patch.dict(exchange.__kwdefaults__, clock=time.clock):
        yield time
