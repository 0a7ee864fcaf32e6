"""A Ray cluster that is there already: which of its nodes run clients, and how many at once.

The app's bundle goes to every node as Ray's working directory, with the environment variables that were chosen; a
driver's own environment and folders do not reach them. Before the first message one actor of each node proves that it
imports the app and finds the data (`<the ClientApp's package>.ready`, where the app has such a module). A node that
cannot is left out by name: it would fail at once whatever it is given, and so take most of a round.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray as untyped_ray
from flwr.simulation.ray_transport.ray_actor import ClientAppActor
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from . import readiness
from .cluster_nodes import Node, nodes_of, shared_out, unlike
from .readiness import NotReady, Proof, one_line, proof_of, reason_of

ray: Any = untyped_ray
_Actor: Any = ClientAppActor
ANNOUNCED = "FLOTILLA_CLUSTER"  # in the environment of the app process; see `flotilla.superlink.cluster`
LOST = (
    exceptions.RayActorError,
    exceptions.ObjectLostError,  # the reply was ready, on a node that has gone
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    exceptions.ActorUnschedulableError,
    exceptions.RuntimeEnvSetupError,
    NotReady,
)
_STATE = "client-state"  # the setting that names a folder which all clients write to


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for.

    Attributes:
        address: of the cluster's head, HOST:PORT, or "auto".
        variables: for the environment of the nodes' workers.
        processes: clients at once in the whole cluster, at most; 0: as many as there are CPUs.
        gpus: share of a GPU for each client; below 0: a quarter where a node has a GPU, else none.
        patience: seconds for a node to prove itself.
    """

    address: str
    variables: Mapping[str, str]
    processes: int
    gpus: float
    patience: float

    @classmethod
    def read(cls, text: str) -> Asked | None:
        """From the environment variable; None where no cluster was asked for."""
        return cls(**json.loads(text)) if text else None


class Workshop:
    """Actors on nodes of a cluster; each proves itself before it is given a message.

    Args:
        proof: from `proof_of`.
        patience: seconds that an actor has for it.
    """

    lost: tuple[type[Exception], ...] = LOST

    def __init__(self, proof: Proof, patience: float) -> None:
        self._proof, self._patience = proof, patience

    def create(self, place: Node) -> Any:
        """Start an actor on a node and do not wait for it."""
        here = NodeAffinitySchedulingStrategy(node_id=place.id, soft=False)
        return _Actor.options(num_cpus=1, num_gpus=place.gpus, scheduling_strategy=here).remote()

    def prove(self, actor: Any) -> Any:
        """Ask an actor for its proof; what comes is read by `proved`."""
        return actor.run.remote(self._proof, None, "", None)

    def start(self, place: Node) -> Any:
        """Start an actor on a node and wait for its proof."""
        actor = self.create(place)
        try:
            reason, _ = proved(self.prove(actor), self._patience)
        except exceptions.GetTimeoutError:
            self.stop(actor)
            raise
        if reason:
            self.stop(actor)
            raise NotReady(reason)
        return actor

    def stop(self, actor: Any) -> None:
        """See that an actor is gone."""
        ray.kill(actor)

    def exists(self, place: Node) -> bool:
        """Whether the node is still there."""
        return any(row["NodeID"] == place.id and row["Alive"] for row in ray.nodes())

    def reason(self, loss: BaseException) -> str:
        """Why an actor was lost."""
        return reason_of(loss)


class Cluster:
    """The cluster of one run.

    Args:
        asked: what the user wants of it.
        folder: the app's bundle, unpacked.
        client_app: where the bundle's ClientApp is, `module:name`.
        config: the run's configuration.
    """

    def __init__(self, asked: Asked, folder: Path, client_app: str, config: Mapping[str, Any]) -> None:
        self._asked, self._folder, self._client_app, self._config = asked, folder, client_app, dict(config)
        # A file in the folder that clients keep their state in, by which nodes show that they see the same one.
        self._marker: Path | None = None

    def join(self) -> None:
        """Become a driver of the cluster.

        Raises:
            RuntimeError: nobody answers there, or this machine is no node of it.
        """
        # Bytecode comes and goes while the ServerApp imports its modules, and Ray reads the folder meanwhile.
        code = {"working_dir": str(self._folder), "excludes": ["__pycache__"]}
        environment = {**code, "env_vars": dict(self._asked.variables)}
        try:
            ray.init(address=self._asked.address, runtime_env=environment, logging_level=logging.WARNING)
        except Exception as error:
            raise RuntimeError(
                f"no Ray cluster at {self._asked.address} that this machine belongs to: {error}"
            ) from error

    def workshop(self) -> Workshop:
        """Where this run's actors come from."""
        folder = str(self._config.get(_STATE, ""))
        if folder:
            self._marker = Path(folder) / f".cluster-{secrets.token_hex(8)}"
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
        proof = proof_of(self._client_app.partition(":")[0], self._config, str(self._marker or ""))
        return Workshop(proof, self._asked.patience)

    def leave(self) -> None:
        """End what this driver has on the cluster."""
        ray.shutdown()
        if self._marker is not None:
            self._marker.unlink(missing_ok=True)

    def workers(self, workshop: Workshop, say: Callable[[str], None]) -> list[tuple[Node, Any]]:
        """Find the nodes that can run clients and start their actors; those that cannot are named.

        Raises:
            RuntimeError: none can; it names all reasons.
        """
        nodes, left_out = nodes_of(ray.nodes(), self._asked.gpus)
        first = {node: workshop.create(node) for node in nodes}
        answers = {node: workshop.prove(actor) for node, actor in first.items()}
        until, prints = time.monotonic() + self._asked.patience, dict[Node, str]()
        for node, answer in answers.items():
            try:
                reason, prints[node] = proved(answer, max(0.0, until - time.monotonic()))
            except exceptions.GetTimeoutError:
                reason = f"no answer within {self._asked.patience:g} s; others may be using its CPUs"
            except Exception as error:
                reason = reason_of(error)
            if reason:
                left_out[node.name] = reason
        prints = {node: text for node, text in prints.items() if node.name not in left_out}
        left_out |= {node.name: "its data are not those of the other nodes" for node in unlike(prints)}
        usable = [node for node in nodes if node.name not in left_out]
        for node in nodes:
            if node not in usable:
                workshop.stop(first[node])
        for name, reason in left_out.items():
            say(f"cluster: left out {name}: {reason}")
        if not usable:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise RuntimeError(f"no node of the cluster can run clients: {reasons or 'it has none'}")
        places = shared_out(usable, self._asked.processes)
        for node in usable:
            at_once = sum(place == node for place in places)
            say(f"cluster: {node.name} runs {at_once} at once" + (f", {node.gpus:g} of a GPU each" * bool(node.gpus)))
            if not at_once:
                workshop.stop(first.pop(node))
        return [(node, first.pop(node, None) or workshop.create(node)) for node in places]


def proved(answer: Any, patience: float) -> tuple[str, str]:
    """Wait for an actor's proof: why it cannot work, or "", and what its data are."""
    _, found, _ = ray.get(answer, timeout=patience)
    reason, data = found
    return one_line(str(reason)), str(data)


# What is sent to nodes must not be looked for there: that module is none of the bundle's.
ray.cloudpickle.register_pickle_by_value(readiness)
