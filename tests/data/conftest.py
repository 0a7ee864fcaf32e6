from __future__ import annotations

import socket
from typing import Any

import pytest


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name can be looked up, and that is said at once: who waits as long as this for the answer has hung."""

    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror("no name service")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("data.fetch._ASK", 120.0)
