"""The probe of a SuperLink ends where its nodes cannot go on."""

from __future__ import annotations

from threading import Event
from typing import Any

import psutil
import pytest

from benchmarks.probes import superlink


class Refused:
    """A node whose first request is refused."""

    requests = failures = 0

    def __init__(self, *_: Any) -> None:
        pass

    def answer(self, _: Any) -> bool:
        raise ValueError("403")


def test_nodes_that_cannot_go_on_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "FleetNode", Refused)
    told = Event()
    nodes = superlink._Nodes("nowhere:1", 3, told.set)
    nodes.check()
    nodes.start()
    assert told.wait(30)
    with pytest.raises(RuntimeError, match="cannot go on: 403"):
        superlink._idle(psutil.Process(), nodes)
    nodes.close()
