"""A node that is only its requests, where the SuperLink does not answer them."""

from __future__ import annotations

from threading import Event
from typing import Any

import httpx
import pytest
from flwr.app import RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.message_pb2 import PullObjectResponse

from flotilla.flwr_compat import fleet
from flotilla.flwr_compat.fleet import FleetNode, NoAnswer

MOST = 200  # requests that a test waits for


class Silent:
    """A SuperLink that lets a node register and then answers as it is told."""

    def __init__(self) -> None:
        self.pulls = 0
        self.error: Exception | None = httpx.ConnectError("refused")

    def RegisterNode(self, _: Any) -> None:
        pass

    def ActivateNode(self, _: Any) -> ActivateNodeResponse:
        return ActivateNodeResponse(node_id=1)

    def PullMessages(self, _: Any) -> PullMessagesResponse:
        self._count()
        return PullMessagesResponse()

    def PullObject(self, _: Any) -> PullObjectResponse:
        self._count()
        return PullObjectResponse(object_available=False)

    def _count(self) -> None:
        self.pulls += 1
        assert self.pulls <= MOST, "it asks for ever"
        if self.error is not None:
            raise self.error


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Silent:
    server = Silent()
    monkeypatch.setattr("flwr.supernode.fleet_http_client.FleetHttpClient.from_server_address", lambda *_: server)
    for name in ("_PAUSE", "_REST"):
        monkeypatch.setattr(fleet, name, 0.0)
    return server


def test_a_superlink_that_is_gone_is_not_asked_for_ever(silent: Silent) -> None:
    node = FleetNode("nowhere:1")
    with pytest.raises(NoAnswer, match="ConnectError: refused"):
        node.answer(RecordDict())
    assert silent.pulls == node.failures == node.requests - 2 > 1


def test_a_node_that_is_told_to_end_asks_no_more(silent: Silent) -> None:
    end = Event()
    node = FleetNode("nowhere:1", end)
    end.set()
    with pytest.raises(NoAnswer, match="told to end"):
        node.answer(RecordDict())
    assert silent.pulls == 1


def test_an_object_that_does_not_come_is_not_waited_for_ever(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    silent.error = None
    monkeypatch.setattr(fleet, "_PATIENCE", 0.0)
    with pytest.raises(NoAnswer, match="did not come"):
        FleetNode("nowhere:1")._pull(1, "object")


def test_a_refusal_is_an_error_at_once(silent: Silent) -> None:
    request = httpx.Request("POST", "http://nowhere")
    silent.error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(403, request=request))
    with pytest.raises(httpx.HTTPStatusError):
        FleetNode("nowhere:1").answer(RecordDict())
    assert silent.pulls == 1
