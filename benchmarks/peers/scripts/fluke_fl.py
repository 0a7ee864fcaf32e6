"""FLUKE: its `FedAVG` over clients whose examples it holds in memory, one client after the other."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.job import Job
from benchmarks.peers.scripts import plain, seat
from benchmarks.peers.scripts.vision import import_torchvision

import_torchvision()

from fluke import DDict, FlukeENV  # noqa: E402
from fluke.algorithms.fedavg import FedAVG  # noqa: E402
from fluke.data import FastDataLoader  # noqa: E402
from fluke.utils import FederationObserver  # noqa: E402


class Splitter:
    """What FLUKE asks for a division of the data: every client has its own rows."""

    def __init__(self, job: Job, data: plain.Data) -> None:
        self._job, self._data = job, data

    def assign(self, n_clients: int, batch_size: int) -> tuple[tuple[list[Any], list[None]], None]:
        """The clients' loaders; nobody has test examples."""
        job = self._job
        loaders = [
            FastDataLoader(
                *self._data.client(number, job.examples),
                num_labels=job.classes,
                batch_size=batch_size,
                shuffle=True,
                skip_singleton=False,
            )
            for number in range(n_clients)
        ]
        return (loaders, [None] * n_clients), None


class Turns(FederationObserver):  # type: ignore[misc]
    """Waits after every round."""

    def __init__(self, taken: seat.Seat) -> None:
        self._seat = taken

    def end_round(self, round: int) -> None:
        """Take part in the turns."""
        del round
        self._seat.ended()


def main() -> None:
    """Run the job."""
    seat.one_thread()
    job, data = seat.job(), plain.Data(seat.data_folder())
    network = plain.network_of(job)
    FlukeENV().set_seed(1)
    FlukeENV().set_eval_cfg(server=False, locals=False, pre_fit=False, post_fit=False)
    optimiser = {"lr": job.learning_rate, "momentum": job.momentum, "weight_decay": job.weight_decay}
    client = {
        "batch_size": job.batch_size,
        "local_epochs": job.epochs,
        "loss": "CrossEntropyLoss",
        "optimizer": {"name": "SGD", **optimiser},
        "scheduler": {"name": "StepLR", "gamma": 1.0, "step_size": 1},
        "clipping": job.clip_norm,
        "persistency": False,  # as elsewhere: a client begins with the server's model and a new optimiser
    }
    algorithm = FedAVG(job.clients, Splitter(job, data), DDict(client=client, server={"weighted": True}, model=network))
    taken = seat.Seat()
    algorithm.set_callbacks([Turns(taken)])
    taken.ready(plain.parameters_of(network), "fluke-fl", "torch")
    algorithm.run(n_rounds=seat.rounds(), eligible_perc=job.per_round / job.clients)
    taken.done(plain.accuracy(algorithm.server.model, data))


if __name__ == "__main__":
    main()
