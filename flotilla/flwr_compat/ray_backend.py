"""flwr's simulation on Ray with a pool of actors that outlives any of them, on this machine or on a cluster.

Loaded by the program `app_process`; nothing of ours is imported here but what stands beside it.

An actor that is killed for memory, that crashes, or whose machine is gone is replaced, and the message that it had is
tried again, from the same state of the client: flwr keeps a client's new state only when its reply has come.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ray
from flwr.app import Context, Message
from flwr.common.config import get_fused_config_from_dir
from flwr.common.constant import PARTITION_ID_KEY
from flwr.server.superlink.fleet import vce
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from flwr.simulation.ray_transport.ray_actor import ClientAppActor, pool_size_from_resources

from .actor_pool import ActorPool
from .ray_cluster import ANNOUNCED, LOST, Asked, Cluster
from .readiness import reason_of
from .views import ViewsOfStore

_MOST = 4096  # threads, each made when there is an actor for it
_UP = 600.0  # seconds for a new actor of this machine to import what it needs


_Actor: Any = ClientAppActor


class HereWorkshop:
    """Actors of this machine.

    Args:
        resources: of each, in Ray's words.
    """

    lost: tuple[type[Exception], ...] = LOST

    def __init__(self, resources: Mapping[str, float]) -> None:
        self._resources = dict(resources)

    def create(self) -> Any:
        """Start an actor and do not wait for it."""
        return _Actor.options(**self._resources).remote()

    def start(self, place: None) -> Any:
        """Start an actor and wait until it can work."""
        del place
        actor = self.create()
        ray.get(actor.__ray_ready__.remote(), timeout=_UP)
        return actor

    def stop(self, actor: Any) -> None:
        """See that an actor is gone."""
        ray.kill(actor)

    def exists(self, place: None) -> bool:
        """Where this process runs, others can."""
        del place
        return True

    def reason(self, loss: BaseException) -> str:
        """Why an actor was lost."""
        return reason_of(loss)


def survive() -> None:
    """Let the simulation of this process run on such a pool, and on a cluster if flotilla has asked for one."""
    told: dict[str, Any] = {}
    start_vce = vce.start_vce
    asked = Asked.read(os.environ.get(ANNOUNCED, ""))
    viewed = ViewsOfStore()

    def start_and_note(*arguments: Any, **options: Any) -> None:
        told.update(options)
        start_vce(*arguments, **options)

    class SurvivingBackend(RayBackend):
        """flwr's backend with another pool."""

        cluster: Cluster | None = None
        survivors: ActorPool[Any, Any] | None = None
        loader: Any = None

        def init_ray(self, backend_config: Any) -> None:
            if asked is None:
                super().init_ray(backend_config)
                return
            folder = Path(told["app_dir"])
            config = get_fused_config_from_dir(folder, told["run"].override_config)
            self.cluster = Cluster(asked, folder, str(told["client_app_attr"]), config)
            self.cluster.join()

        def build(self, app_fn: Any) -> None:
            self.loader = ray.put(app_fn)  # which is a closure, and pickled slowly: once, not with every message
            if self.cluster is None:
                here = HereWorkshop(self.client_resources)
                count = pool_size_from_resources(self.client_resources)
                self.survivors = ActorPool(here, [(None, here.create()) for _ in range(count)], _say)
            else:
                workshop = self.cluster.workshop()
                self.survivors = ActorPool(workshop, self.cluster.workers(workshop, _say), _say)

        @property
        def num_workers(self) -> int:
            return self.survivors.num_actors if self.survivors else 0

        def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
            partition = str(context.node_config[PARTITION_ID_KEY])

            def answer(actor: Any) -> Any:
                return ray.get(actor.run.remote(self.loader, message, partition, context))

            assert self.survivors is not None  # made by `build`
            _, reply, updated = self.survivors.run(answer)
            if reply.has_content():
                viewed.admit(reply.content)
            return reply, updated

        def terminate(self) -> None:
            if self.cluster is None:
                super().terminate()  # which ends Ray, and so the actors
                return
            if self.survivors is not None:
                self.survivors.stop()
            self.cluster.leave()

    # flwr has a thread for each actor, but no more than four beside as many as this machine has cores.
    many = partial(ThreadPoolExecutor, max_workers=_MOST)
    vars(vce_api).update(ThreadPoolExecutor=many)
    vars(vce).update(start_vce=start_and_note)
    vars(raybackend).update(RayBackend=SurvivingBackend)


def _say(line: str) -> None:
    print(f"flotilla: {line}", flush=True)
