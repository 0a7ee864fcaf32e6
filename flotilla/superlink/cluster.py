"""What `--cluster` says: an existing Ray cluster, and what its nodes are told.

A driver's environment stays on the driver. What of it is sent along is what makes workers be as they are here, and what
the user names: `--cluster-env NAME` as it is here, `--cluster-env NAME=VALUE` as it is there. A value may be a secret:
none is ever printed.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import typer

CLUSTER = typer.Option(
    "--cluster",
    metavar="HOST:PORT|auto",
    help="Run the clients on a Ray cluster that this machine belongs to (docs/scale.md).",
)
CLUSTER_ENV = typer.Option(
    "--cluster-env",
    metavar="NAME[=VALUE]",
    help="Environment variable that the cluster's nodes are to have; repeatable.",
)
ANNOUNCED = "FLOTILLA_CLUSTER"  # read by flotilla/flwr_compat/ray_cluster.py
_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_NAME = re.compile(r"[A-Za-z_]\w*")
# Sent if they are set. What keeps runs on one machine apart (FLWR_HOME, RAY_*) has no meaning elsewhere.
_ALONG = ("FLOTILLA_DATA", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_WAIT_POLICY")
_ALSO = ("FLWR_DISABLE_UPDATE_CHECK", "FLWR_TELEMETRY_ENABLED")
# Not sent, and not ours to set.
_CLUSTERS = ("RAY_TMPDIR", "RAY_max_direct_call_object_size", "RAY_free_objects_batch_size")
_LISTENS = 10.0  # seconds for a head to take a connection
_PATIENCE = 300.0  # seconds for a node to fetch the bundle, import PyTorch and read the data


class ClusterError(ValueError):
    """An address or a variable that cannot be used; one line."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster that runs the clients.

    Attributes:
        address: HOST:PORT of its head, or "auto": the one that this machine belongs to.
        variables: what the nodes' environment has beside what is sent anyway.
    """

    address: str
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(
        self, env: Mapping[str, str], *, processes: int | None, gpus_per_client: float | None
    ) -> dict[str, str]:
        """What the processes of a run are started with.

        Args:
            env: from `flotilla.superlink.superlink.environment`.
            processes: clients at once in the whole cluster, at most; None: as many as there are CPUs.
            gpus_per_client: on every node; None: a quarter where a node has a GPU.
        """
        sent = {name: env[name] for name in (*_ALONG, *_ALSO) if name in env} | dict(self.variables)
        asked = {
            "address": self.address,
            "variables": sent,
            "processes": processes or 0,
            "gpus": -1.0 if gpus_per_client is None else gpus_per_client,
            "patience": _PATIENCE,
        }
        # Where Ray's files are is the cluster's to say, and "auto" looks for the cluster there; so are its limits.
        kept = {name: value for name, value in env.items() if name not in _CLUSTERS}
        kept |= {name: os.environ[name] for name in _CLUSTERS if name in os.environ}
        return kept | {ANNOUNCED: json.dumps(asked)}


def answering(cluster: Cluster) -> Cluster:
    """The same cluster, if somebody listens where its head is meant to be; to be asked before anything is started.

    Raises:
        ClusterError: nobody does. Ray itself looks for minutes.
    """
    host, _, port = cluster.address.rpartition(":")
    if not host:
        return cluster  # "auto", which Ray looks up in files of this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), _LISTENS).close()
    except OSError as error:
        why = f"nobody answers there ({error}); is `ray start --head` up?"
        raise ClusterError(f"cluster = {cluster.address!r}: {why}") from None
    return cluster


def said_again(variables: Sequence[str]) -> list[str]:
    """The words that name `--cluster-env`'s variables once more, without their values."""
    return [word for text in variables for word in ("--cluster-env", text.partition("=")[0])]


def cluster_of(address: str | None, variables: Sequence[str] = (), *, engine: str = "flower") -> Cluster:
    """Read what the command line says of a cluster.

    Args:
        address: HOST:PORT, or "auto": where RAY_ADDRESS says, else the one that this machine belongs to.
        variables: each NAME or NAME=VALUE.
        engine: what carries the messages.

    Raises:
        ClusterError: says what is allowed.
    """
    if address is None:
        raise ClusterError("cluster-env: allowed is with --cluster")
    if engine != "flower":
        raise ClusterError(f"cluster = {address!r}: allowed is with --engine flower, whose clients Ray runs")
    meant = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if meant != "auto" and not _ADDRESS.fullmatch(meant):
        allowed = "HOST:PORT of the cluster's head, as `ray start --head` says it, or auto"
        said = f"{address!r}" + (f" (RAY_ADDRESS is {meant!r})" if meant != address else "")
        raise ClusterError(f"cluster = {said}: allowed is {allowed}; ray:// is another protocol")
    if meant != "auto" and not 0 < int(meant.rpartition(":")[2]) < 2**16:
        raise ClusterError(f"cluster = {meant!r}: allowed is a port from 1 to 65535")
    found: dict[str, str] = {}
    for text in variables:
        name, told, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise ClusterError(f"cluster-env = {name!r}: allowed is NAME or NAME=VALUE")
        if not told and name not in os.environ:
            raise ClusterError(f"cluster-env = {name!r}: it is not set here; allowed is NAME=VALUE")
        found[name] = value if told else os.environ[name]
    return Cluster(meant, found)
