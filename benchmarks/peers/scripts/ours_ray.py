"""Flotilla by `flotilla run`: SuperLink, ServerApp, and Flower's simulation with Ray's workers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.bench.flower_overhead.driver import Pause, Round, probed_run
from benchmarks.peers.scripts import seat
from benchmarks.peers.scripts.our_job import accuracy_of, keys_of
from server_app.config.resolve import resolve
from server_app.folder.model_file import MODEL

_NOTE = "by `flotilla run`, SuperLink included; its last turn tests and saves the model"


def main() -> None:
    """Run the job; the network is counted by the run itself, and the model that it saved is scored."""
    job, keys = seat.job(), keys_of(seat.job())
    taken = seat.Seat()

    def pause(ended: Round, _: Pause) -> None:
        seat.counter().add(steps=ended.steps, down=ended.down, up=ended.up)
        taken.ended()

    def begin(parameters: int) -> None:
        taken.ready(parameters, "flwr", "ray", "torch", note=_NOTE)

    with tempfile.TemporaryDirectory(prefix="peer-run-") as place:
        folder = Path(place) / "run"
        probed_run(keys, seat.rounds(), pause, before=0, begin=begin, run_folder=folder, timeout=3600.0)
        saved = load_file(folder / MODEL)
        taken.done(accuracy_of(job, (saved[name] for name in resolve(keys).strategy().state)))


if __name__ == "__main__":
    main()
