"""Who takes part: libraries with their versions, the script that drives each, and in how many processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library, or one of our two engines.

    Attributes:
        name: in the table.
        script: module in `benchmarks.peers.scripts`.
        packages: what pip installs into its environment, beside PyTorch; () is ours, which runs where we do.
        environment: folder of its environment; "" for ours.
        processes: in how many it trains; it takes part once for each. 0 is one for each client of a round.
        launcher: module that starts the script in several processes, with its arguments; () where the library does.
        beside: which of ours it is compared with, where that is not the one in process.
        without: jobs that it does not do, and why.
    """

    name: str
    script: str
    packages: tuple[str, ...] = ()
    environment: str = ""
    processes: tuple[int, ...] = (1,)
    launcher: tuple[str, ...] = ()
    beside: str = ""
    without: Mapping[str, str] = field(default_factory=dict)


OURS = "Flotilla, in process"
OURS_RAY = "Flotilla, `flotilla run` (Ray)"
FLOOR = "bare PyTorch loop"
_TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node={processes}", "-m")

PEERS = (
    Peer(name=FLOOR, script="bare"),
    Peer(name=OURS, script="ours", processes=(1, 2)),
    Peer(name=OURS_RAY, script="ours_ray", processes=(2,)),
    Peer(
        name="pfl-research",
        script="pfl_research",
        packages=("pfl[pytorch]==0.6.0",),
        environment="pfl",
        processes=(1, 2),
        launcher=_TORCHRUN,
    ),
    Peer(
        name="Flower's FedAvg (Ray)",
        script="flower",
        packages=("flwr[simulation]==1.41.0",),
        environment="flwr",
        processes=(2,),
        beside=OURS_RAY,
    ),
    Peer(name="FLUKE", script="fluke_fl", packages=("fluke-fl==0.8.1",), environment="fluke"),
    Peer(
        name="NVFlare's simulator",
        script="nvidia_flare",
        packages=("nvflare==2.9.0",),
        environment="nvflare",
        processes=(0,),
        without={
            "cifar10": "it keeps a process for each of 50 clients; with fewer it starts one for every client and round"
        },
    ),
    Peer(name="FLGo", script="flgo_lib", packages=("flgo==0.4.4",), environment="flgo"),
    Peer(
        name="FedML",
        script="fedml_lib",
        packages=("fedml==0.9.6", "setuptools<81"),
        environment="fedml",
        without={"digits": "its SGD has no momentum, no weight decay and no clipping"},
    ),
)
