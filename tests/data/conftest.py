from __future__ import annotations

import socket
from collections.abc import Iterator
from logging import Handler, LogRecord, getLogger
from typing import Any

import pytest


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name can be looked up, and that is said at once: who waits as long as this for the answer has hung."""

    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror("no name service")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("data.fetch._ASK", 120.0)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Lines of the log."""
    lines = list[str]()

    class Lines(Handler):
        def emit(self, record: LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines()
    getLogger("flwr").addHandler(handler)
    yield lines
    getLogger("flwr").removeHandler(handler)
