"""Flotilla, in process: rounds of its local engine, in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers.scripts import seat
from benchmarks.peers.scripts.our_job import accuracy_of, keys_of
from client_app.app import app
from flotilla.local.directory import directory_of
from flotilla.local.grid import LazyContexts, LocalGrid
from flotilla.local.pool import PoolGrid
from models.networks.build import initial_state
from models.randomness import torch_generator
from server_app.config.resolve import RunConfig, resolve
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import ClientUpdate


def main() -> None:
    """Run the job."""
    job = seat.job()
    config = resolve(keys_of(job))
    strategy = config.strategy()
    for name, tensor in initial_state(strategy.network, torch_generator(1, 0, "server", "initial state")).items():
        strategy.state[name].copy_(tensor)
    weigh = strategy.weigh

    def noting(context: RoundContext, assignment: TrainAssignment, update: ClientUpdate) -> tuple[float, float]:
        """Weigh a reply, and count the steps that it took."""
        seat.counter().add(steps=int(update.metrics["steps"]))
        return weigh(context, assignment, update)

    strategy.weigh = noting  # type: ignore[method-assign]
    taken = seat.Seat()
    with _grid(config) as grid:
        taken.ready(sum(tensor.numel() for tensor in strategy.state.values()), "torch", note="train-as = auto")
        for number in range(1, seat.rounds() + 1):
            report = strategy.run_round(grid, number)
            if report.accepted != job.per_round:
                raise RuntimeError(f"round {number}: {report.accepted} of {job.per_round} clients")
            seat.counter().add(down=report.bytes_down, up=report.bytes_up)
            taken.ended()
    taken.done(accuracy_of(job, strategy.state.values()))


@contextmanager
def _grid(config: RunConfig) -> Iterator[LocalGrid | PoolGrid]:
    """One process does all itself; several are workers of one more."""
    directory = directory_of(config.data, config.num_clients)
    if seat.processes() == 1:
        yield LocalGrid(app, LazyContexts(config.flat, config.num_clients), directory=directory)
        return
    with PoolGrid(config.flat, config.num_clients, seat.processes(), directory=directory) as grid:
        yield grid


if __name__ == "__main__":
    main()
