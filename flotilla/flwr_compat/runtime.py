"""A SuperLink's Runtime API, which is what Flower's SuperExec talks to: whoever claims a task may run it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path


def claim_task(address: str, root: Path | None, kind: str) -> str:
    """Claim a waiting task.

    Args:
        address: host and port of the SuperLink.
        root: certificate that vouches for it; None: without TLS.
        kind: "flwr-simulation" or "flwr-serverapp".

    Returns:
        The token with which a process runs it; empty if there is none.
    """
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    certificate = root.read_bytes() if root else None
    client = RuntimeHttpClient.from_server_address(address, root is None, certificate, interceptors)
    with closing(client):
        return str(client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind])).token)
