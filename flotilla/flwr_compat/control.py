"""A SuperLink's Control API, which is what the command `flwr` talks to: runs, and nodes that may take part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node that the SuperLink knows.

    Attributes:
        public_key: as PEM; empty without node authentication.
        online: whether it is.
    """

    public_key: bytes
    online: bool


class Control:
    """An open connection.

    Args:
        client: flwr's.
    """

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def start_run(self, bundle: bytes, overrides: Mapping[str, object], federation: Mapping[str, object]) -> int | None:
        """Start a run of a bundle.

        Args:
            bundle: from `flotilla.flwr_compat.bundle.build_bundle`.
            overrides: settings that differ from the app's own.
            federation: what `--federation-config` takes, with underscores; of a simulation only.

        Returns:
            The run's id; None if it was refused.
        """
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.federation_config_pb2 import SimulationConfig
        from flwr.supercore.fab import Fab

        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab),
            override_config=user_config_to_proto(dict(overrides)),  # type: ignore[arg-type]
        )
        if federation:
            request.override_federation_config.CopyFrom(SimulationConfig(**federation))  # type: ignore[arg-type]
        answer = self._client.StartRun(request)
        return int(answer.run_id) if answer.HasField("run_id") else None

    def status(self, run: int) -> str:
        """Ask for a run's status as `flwr ls` shows it, `finished:completed` being the good one."""
        from flwr.proto.control_pb2 import ListRunsRequest

        status = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        return f"{status.status}:{status.sub_status}".rstrip(":")

    def stop(self, run: int) -> None:
        """Stop a run as `flwr stop` does."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._client.StopRun(StopRunRequest(run_id=run))

    def register(self, public_key: bytes, name: str) -> None:
        """Make a node's key (PEM) known; others are turned away."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))

    def nodes(self) -> list[NodeInfo]:
        """List the nodes that are known."""
        from flwr.proto.control_pb2 import ListNodesRequest

        found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [NodeInfo(node.public_key, node.status == "online") for node in found]


def open_control(address: str, root: Path | None) -> closing[Control]:
    """Open the Control API of a SuperLink.

    Args:
        address: host and port.
        root: certificate that vouches for it; None: without TLS.
    """
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    certificate = root.read_bytes() if root else None
    return closing(Control(ControlHttpClient.from_server_address(address, root is None, certificate, interceptors)))
