"""FLGo: its `fedavg`, one client after the other in one process."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmarks.peers.scripts import plain, seat
from benchmarks.peers.scripts.vision import import_torchvision

import_torchvision()

import flgo  # noqa: E402
from flgo.algorithm import fedavg  # noqa: E402
from flgo.benchmark.partition import IIDPartitioner  # noqa: E402
from flgo.benchmark.toolkits.cv.classification import FromDatasetPipe  # noqa: E402

# PyTorch 2.13 refuses subsets that change what an example is and do not say so for several; FLGo 0.4.4 is older.
FromDatasetPipe.TaskDataset.__getitems__ = lambda self, rows: [self[row] for row in rows]


def algorithm(taken: seat.Seat) -> ModuleType:
    """FLGo's `fedavg` with a server that waits after every round."""

    class ServerInTurns(fedavg.Server):  # type: ignore[misc]  # FLGo looks for the word in its name
        def iterate(self) -> bool:
            updated = bool(super().iterate())
            taken.ended()
            return updated

    module = ModuleType("fedavg_in_turns")
    vars(module).update(Server=ServerInTurns, Client=fedavg.Client)
    return module


def main() -> None:
    """Run the job."""
    seat.one_thread()
    job, data = seat.job(), plain.Data(seat.data_folder())
    taken = seat.Seat()
    sys.path.insert(0, str(Path.cwd()))  # where FLGo puts the packages that it writes
    # FLGo copies the file; the copy finds the same modules.
    benchmark = flgo.gen_benchmark_from_file("job", str(Path(__file__).with_name("flgo_task.py")))
    vars(import_module(benchmark))["visualize"] = lambda *_: None  # it draws a polygon an example, which takes minutes
    flgo.gen_task(
        {
            "benchmark": {"name": benchmark},
            "partitioner": {"name": IIDPartitioner, "para": {"num_clients": job.clients}},
        },
        "task",
    )
    runner = flgo.init(
        "task",
        algorithm(taken),
        {
            "sample": "uniform",
            "aggregate": "weighted",
            "num_rounds": seat.rounds(),
            "proportion": job.per_round / job.clients,
            "num_epochs": job.epochs,
            "batch_size": job.batch_size,
            "learning_rate": job.learning_rate,
            "momentum": job.momentum,
            "weight_decay": job.weight_decay,
            "clip_grad": job.clip_norm,
            "train_holdout": 0.0,
            "eval_interval": -1,
            "no_tqdm": True,
        },
    )
    note = "with `__getitems__` added, without which it fails"
    taken.ready(plain.parameters_of(runner.model), "flgo", "torch", note=note)
    runner.run()
    taken.done(plain.accuracy(runner.model, data))


if __name__ == "__main__":
    main()
