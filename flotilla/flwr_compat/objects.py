"""The request with which a node pushes an object (an array's bytes) to the SuperLink."""

from __future__ import annotations

PUSH_PATH = "/v1/fleet/push-object"


def push_request(content: bytes) -> bytes:
    """Serialise the request's body, without any node or run."""
    from flwr.proto.message_pb2 import PushObjectRequest

    body: bytes = PushObjectRequest(object_content=content).SerializeToString()
    return body
