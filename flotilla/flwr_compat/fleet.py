"""A SuperLink's Fleet API, by which SuperNodes get and answer messages: a node that is only its requests."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from time import monotonic
from typing import Any

import httpx
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

_STAYS = 1800.0  # seconds, twice which the SuperLink believes that the node is there; the most that it takes
_PAUSE = 1.0  # seconds before a request is made again that had no answer
_REST = 0.02  # seconds before an object is asked for again that the SuperLink does not have yet
_TRIES = 60  # of a request
_PATIENCE = 300.0  # seconds for an object to come


class NoAnswer(RuntimeError):
    """The SuperLink does not answer, or the node was told to end while it did not."""


class FleetNode:
    """A node that registers, looks for messages and answers them, without a process or an app.

    Args:
        address: of a SuperLink without TLS that lets nodes register themselves.
        end: set, it ends the wait for a SuperLink that does not answer.

    Attributes:
        requests: how many it has made.
        failures: how many of them the SuperLink could not answer (HTTP 5xx, a connection closed); they were made again.
    """

    def __init__(self, address: str, end: Event | None = None) -> None:
        self._end = end or Event()
        private, public = generate_key_pairs()
        proofs: list[Any] = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, public),
        ]
        self._client = FleetHttpClient.from_server_address(address, True, None, proofs)
        key = public_key_to_bytes(public)
        self._client.RegisterNode(RegisterNodeFleetRequest(public_key=key))
        node = self._client.ActivateNode(ActivateNodeRequest(public_key=key, heartbeat_interval=_STAYS))
        self._node = Node(node_id=node.node_id)
        self.requests, self.failures = 2, 0

    def answer(self, content: RecordDict) -> bool:
        """Fetch a message with all its objects and reply with some content; False where there is none.

        Raises:
            NoAnswer: the SuperLink does not answer, however often it is asked, or the node was told to end.
            httpx.HTTPStatusError: it refuses a request (HTTP 4xx).
        """
        found = self._asked(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not found.messages_list:
            return False
        message = message_from_proto(found.messages_list[0])
        run = message.metadata.run_id
        for tree in iterate_object_tree(found.message_object_trees[0]):
            self._pull(run, tree.object_id)
        received = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run, message_object_id=message.metadata.message_id
        )
        self._asked(self._client.ConfirmMessageReceived, received)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, run, self._node.node_id
        self._push(run, Message(content, reply_to=message))
        return True

    def _pull(self, run: int, name: str) -> None:
        request = PullObjectRequest(node=self._node, run_id=run, object_id=name)
        until = monotonic() + _PATIENCE
        while not self._asked(self._client.PullObject, request).object_available:
            if monotonic() > until:
                raise NoAnswer(f"an object of a message did not come within {_PATIENCE:g} s")
            self._rest(_REST)

    def _push(self, run: int, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        bare = message_to_proto(remove_content_from_message(reply))
        reply_only = PushMessagesRequest(
            node=self._node,
            messages_list=[bare],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.0],
        )
        told = self._asked(self._client.PushMessages, reply_only)
        objects = get_all_nested_objects(reply)
        for name in told.objects_to_push:
            request = PushObjectRequest(
                node=self._node,
                run_id=run,
                object_id=name,
                object_content=objects[name].deflate(),
                session_id=told.session_id,
            )
            self._asked(self._client.PushObject, request)

    def _asked(self, call: Callable[[Any], Any], request: Any) -> Any:
        """Make a request until there is an answer, `_TRIES` times at most."""
        for _ in range(_TRIES):
            self.requests += 1
            try:
                return call(request)
            except httpx.HTTPError as error:
                if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                    raise
                self.failures += 1
                reason = f"{type(error).__name__}: {error}"
            self._rest(_PAUSE)
        raise NoAnswer(f"no answer to {_TRIES} requests; the last: {reason}")

    def _rest(self, seconds: float) -> None:
        if self._end.wait(seconds):
            raise NoAnswer("the node was told to end")
