"""A job as settings of ours."""

from __future__ import annotations

from benchmarks.peers.job import Job
from benchmarks.peers.scripts import seat
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
