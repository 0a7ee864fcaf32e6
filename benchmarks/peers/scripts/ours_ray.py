"""Flotilla by `flotilla run`: SuperLink, ServerApp, and Flower's simulation with Ray's workers."""

from __future__ import annotations

from benchmarks.bench.flower_overhead.driver import Pause, Round, probed_run
from benchmarks.peers.scripts import seat
from benchmarks.peers.scripts.our_job import keys_of


def main() -> None:
    """Run the job. Two rounds are over before the first one that is asked for."""
    job = seat.job()
    taken = seat.Seat()
    first = True

    def pause(ended: Round, _: Pause) -> None:
        nonlocal first
        if first:
            first = False
            taken.ready(job.parameters, "flwr", "ray", "torch", note="by `flotilla run`, SuperLink included")
            return
        seat.counter().add(steps=ended.steps, down=ended.down, up=ended.up)
        taken.ended()

    probed_run(keys_of(job), seat.rounds() + 1, pause, timeout=3600.0)
    taken.done(None)


if __name__ == "__main__":
    main()
