"""NVFlare: its `FedAvg` controller in its simulator, with a process for each client, which is what it does unless told.

With fewer processes than clients it starts a new one for every client and round. All clients that are registered train,
so there are as many as elsewhere train in a round.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
from nvflare.job_config.script_runner import ScriptRunner
from torch import Tensor, nn

from benchmarks.peers.scripts import plain, seat


class JobNetwork(nn.Module):
    """The job's network as a class that NVFlare can make without arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.network = plain.network_of(seat.job())

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) → logits (N, classes)."""
        logits: Tensor = self.network(images)
        return logits


class Turns(FedAvg):  # type: ignore[misc]
    """NVFlare's controller, which waits after every round."""

    def run(self) -> None:
        """Take the seat and run the job."""
        seat.one_thread()
        job, data = seat.job(), plain.Data(seat.data_folder())
        network = JobNetwork()
        self.taken = seat.Seat()
        note = f"{job.per_round} clients registered"
        self.taken.ready(plain.parameters_of(network), "nvflare", "torch", note=note)
        super().run()
        network.load_state_dict({name: torch.as_tensor(value) for name, value in self.last.items()})
        self.taken.done(plain.accuracy(network, data))

    def save_model(self, model: Any) -> None:
        """Save as ever, which ends a round."""
        super().save_model(model)
        self.last = model.params
        self.taken.ended()


def main() -> None:
    """Run the job."""
    job = seat.job()
    fed = BaseFedJob(name="peers", initial_model=JobNetwork())
    fed.to_server(Turns(num_clients=job.per_round, num_rounds=seat.rounds(), persistor_id=fed.comp_ids["persistor_id"]))
    fed.to_clients(ScriptRunner(script=str(Path(__file__).with_name("nvidia_client.py"))))
    fed.simulator_run(str(Path.cwd() / "work"), n_clients=job.per_round, threads=seat.processes())


if __name__ == "__main__":
    import_module(
        "benchmarks.peers.scripts.nvidia_flare"
    ).main()  # by its name, by which the server finds the controller
