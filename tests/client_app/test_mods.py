"""A ClientApp with flwr's privacy mods, which would not act on our messages, does not start."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import (
    LocalDpMod,
    adaptiveclipping_mod,
    arrays_size_mod,
    fixedclipping_mod,
    message_size_mod,
)

from client_app.mods import refuse_idle
from client_app.serve import serve

IDLE: list[Any] = [secaggplus_mod, fixedclipping_mod, adaptiveclipping_mod, LocalDpMod(1.0, 1.0, 1.0, 1e-5)]


@pytest.mark.parametrize("mod", IDLE, ids=["secaggplus", "fixed clipping", "adaptive clipping", "local DP"])
def test_a_mod_that_would_not_act_is_refused(mod: Any) -> None:
    with pytest.raises(TypeError, match="would not act") as caught:
        refuse_idle(ClientApp(mods=[message_size_mod, mod]))
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="would not act"):
        serve(ClientApp(mods=[mod]), lambda module, task, context: 0.0, examples=lambda context: 1)


def test_mods_that_only_look_are_not() -> None:
    app = ClientApp(mods=[message_size_mod, arrays_size_mod])
    assert refuse_idle(app) is app


def test_an_app_that_does_not_say_its_mods_does_not_start() -> None:
    app = ClientApp()
    del app._mods
    with pytest.raises(AttributeError, match="_mods"):
        refuse_idle(app)
