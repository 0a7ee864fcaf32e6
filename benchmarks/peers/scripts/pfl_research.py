"""pfl-research: its `SimulatedBackend` and `FederatedAveraging`, in as many processes as `torchrun` starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import distributed
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.scripts import plain, seat


class Learner(nn.Module):
    """The job's network with the two methods that pfl asks for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) → logits (N, classes)."""
        logits: Tensor = self.network(images)
        return logits

    def loss(self, images: Tensor, labels: Tensor, **_: Any) -> Tensor:
        """Mean loss of a batch."""
        self.train()
        return F.cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor, **_: Any) -> dict[str, Weighted]:
        """Summed loss of a user."""
        return {"loss": Weighted(float(F.cross_entropy(self(images), labels, reduction="sum")), len(labels))}


def together() -> None:
    """Let the other processes wait for the first one, which has the seat."""
    if distributed.world_size > 1:
        torch.distributed.barrier()


class Turns(TrainingProcessCallback):  # type: ignore[misc]
    """Waits after every round."""

    def __init__(self, taken: seat.Seat | None) -> None:
        self._seat = taken

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Take part in the turns."""
        del aggregate_metrics, model, central_iteration
        if self._seat:
            self._seat.ended()
        together()
        return False, Metrics()


def main() -> None:
    """Run the job."""
    seat.one_thread()
    np.random.seed(1)  # noqa: NPY002  every process has to draw the same users, from NumPy's global state
    job, data = seat.job(), plain.Data(seat.data_folder())
    network = plain.network_of(job)
    learner = Learner(network)
    taken = seat.Seat() if distributed.global_rank == 0 else None
    model = PyTorchModel(
        model=learner,
        local_optimizer_create=lambda parameters, lr: torch.optim.SGD(
            parameters, lr=lr, momentum=job.momentum, weight_decay=job.weight_decay
        ),
        central_optimizer=seat.uncounted(torch.optim.SGD(learner.parameters(), lr=1.0)),
    )

    def user(number: int) -> Dataset:
        return Dataset(raw_data=list(data.client(number, job.examples)), user_id=str(number))

    users = FederatedDataset(user, get_user_sampler("minimize_reuse", list(range(job.clients))))
    if taken:
        taken.ready(plain.parameters_of(network), "pfl", "torch", note="sums shared by gloo" * (seat.processes() > 1))
    together()
    FederatedAveraging().run(
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=seat.rounds(),
            evaluation_frequency=10_000,
            train_cohort_size=job.per_round,
            val_cohort_size=0,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=job.epochs,
            local_learning_rate=job.learning_rate,
            local_batch_size=job.batch_size,
            local_max_grad_norm=job.clip_norm or None,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[Turns(taken)],
        send_metrics_to_platform=False,
    )
    if taken:
        taken.done(plain.accuracy(network, data))


if __name__ == "__main__":
    main()
