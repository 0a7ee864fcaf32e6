"""FedML: its single-process `FedAvgAPI`, whose SGD has no momentum, no weight decay and no clipping."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.peers.scripts import plain, seat
from benchmarks.peers.scripts.vision import import_torchvision

import_torchvision()

from fedml.core import mlops  # noqa: E402
from fedml.simulation.sp.fedavg.fedavg_api import FedAvgAPI  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402


class Turns(FedAvgAPI):  # type: ignore[misc]
    """FedML's loop, which waits after every round; nobody is tested."""

    taken: seat.Seat

    def _client_sampling(self, round_idx: int, *counts: int) -> Any:
        if round_idx:
            self.taken.ended()
        return super()._client_sampling(round_idx, *counts)

    def _local_test_on_all_clients(self, round_idx: int) -> None:
        """Test nobody, which FedML would do in the first round and in the last one."""


def main() -> None:
    """Run the job."""
    seat.one_thread()
    job, data = seat.job(), plain.Data(seat.data_folder())
    network = plain.network_of(job)
    args = SimpleNamespace(
        dataset="pictures",
        client_num_in_total=job.clients,
        client_num_per_round=job.per_round,
        comm_round=seat.rounds(),
        epochs=job.epochs,
        batch_size=job.batch_size,
        client_optimizer="sgd",
        learning_rate=job.learning_rate,
        weight_decay=job.weight_decay,
        frequency_of_the_test=10_000,
        enable_wandb=False,
        using_mlops=False,
    )
    mlops.pre_setup(args)  # nothing is reported to FedML's servers
    loaders = {
        number: DataLoader(TensorDataset(*data.client(number, job.examples)), batch_size=job.batch_size, shuffle=True)
        for number in range(job.clients)
    }
    sizes = dict.fromkeys(range(job.clients), job.examples)
    nobody = dict.fromkeys(range(job.clients))
    dataset = [job.clients * job.examples, 0, None, None, sizes, loaders, nobody, job.classes]
    taken = seat.Seat()
    federation = Turns(args, torch.device("cpu"), dataset, network)
    federation.taken = taken
    taken.ready(plain.parameters_of(network), "fedml", "torch", note="with setuptools < 81, without which it fails")
    federation.train()
    taken.ended()
    taken.done(plain.accuracy(network, data))


if __name__ == "__main__":
    main()
