"""An object that is still under way is looked for soon again, and for as long as it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects

from server_app.flwr_patches.transport import look_again_soon


@pytest.fixture(autouse=True)
def defaults_come_back() -> Iterator[None]:
    with patch.dict(pull_objects.__kwdefaults__):
        yield


def pulled(misses: int) -> float:
    """Seconds until an object is there that is not, so many times."""
    left = misses

    def pull(name: str) -> bytes:
        nonlocal left
        left -= 1
        if left >= 0:
            raise ObjectUnavailableError(name)
        return b"there"

    began = time.monotonic()
    assert pull_objects(["reply"], pull) == {"reply": b"there"}
    return time.monotonic() - began


def test_the_first_rests_are_short() -> None:
    assert pulled(1) > 0.7  # flwr's own
    assert look_again_soon()
    assert pulled(1) < 0.5


def test_a_long_upload_is_not_given_up() -> None:
    assert look_again_soon()
    with patch("threading.Event.wait"):
        pulled(2000)


def test_another_flwr_is_left_alone() -> None:
    with patch.object(inflatable_utils, "pull_objects", lambda object_ids, pull_object_fn: {}):
        assert not look_again_soon()
