"""A job as settings of ours, and the accuracy of our states."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.peers.job import Job
from benchmarks.peers.scripts import plain, seat
from protocol import Scalar

_NETWORKS = {"flat": ("cnn-flat", "none"), "stages": ("cnn", "static-batch")}


def keys_of(job: Job) -> dict[str, Scalar]:
    """FedAvg with the job's network, data and rule; nothing is evaluated or saved between rounds."""
    folder = seat.data_folder()
    model, norm = _NETWORKS[job.network]
    return {
        "dataset": f"npz:{folder.name}",
        "data-root": str(folder.parent),
        "partition": "iid",
        "method": "fedavg",
        "model": model,
        "norm": norm,
        "widths": ", ".join(map(str, job.widths)),
        "tiers": "a:1",
        "num-clients": job.clients,
        "fraction-train": job.per_round / job.clients,
        "local-epochs": job.epochs,
        "batch-size": job.batch_size,
        "local-test-fraction": 0.0,
        "learning-rate": job.learning_rate,
        "learning-rate-schedule": "constant",
        "momentum": job.momentum,
        "weight-decay": job.weight_decay,
        "clip-norm": job.clip_norm,
        "device": "cpu",
        "num-server-rounds": seat.rounds(),
        "evaluate-every": 10_000,
        "checkpoint-every": 10_000,
    }


def accuracy_of(job: Job, state: Iterable[Tensor]) -> float:
    """Share of the test examples that the plain network names right with a state of ours.

    Args:
        job: what was done.
        state: tensors in the order of the network's parameters.

    Raises:
        ValueError: it is another network's.
    """
    network = plain.network_of(job)
    with torch.no_grad():
        for own, tensor in zip(network.parameters(), state, strict=True):
            if own.shape != tensor.shape:
                raise ValueError(f"a tensor of shape {tuple(tensor.shape)} in place of one of {tuple(own.shape)}")
            own.copy_(tensor)
    return plain.accuracy(network, plain.Data(seat.data_folder()))
