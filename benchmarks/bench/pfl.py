"""pfl-research's CIFAR-10 benchmark, against the same optimiser steps in a bare loop.

1,000 clients of 50 images, 50 a round, one epoch, batches of 10, plain SGD, a CNN of 1,626,442 weights, two processes
of one thread. The in-process engine and the floor take turns, round by round; once more with mixed precision, if the
CPU has bfloat16, where the floor stays in float32. Under Ray they do so too: the run is an ordinary `flotilla run` of
an app that is ours, but waits after each round until the floor has had its turn (`benchmarks.bench.flower_overhead`).
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch

from benchmarks.bench.floor import Steps, bare_loop
from benchmarks.bench.flower_overhead.driver import Pause, Round, probed_run
from benchmarks.bench.ray_shares import RayShares
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.bench.workers import Workers, workers
from benchmarks.document import Say
from benchmarks.images import Images, images
from client_app.hardware import has_bfloat16
from data import load
from flotilla.local.pool import PoolGrid
from models.algebra.rates import share_of
from models.networks.build import initial_state
from models.randomness import torch_generator
from protocol import Scalar
from server_app.config.resolve import RunConfig, resolve
from strategies import FlowerStrategy

NAME = "pfl"
PROCESSES = 2
# What a round is: everything but hello to new nodes, evaluation and checkpoints.
PHASES = ("select", "plan", "train", "fold", "finish")


def pfl(
    say: Say = print,
    clients: int = 1000,
    fraction: float = 0.05,
    rounds: int = 9,
    ray_rounds: int = 9,
    processes: int = PROCESSES,
    **changes: Scalar,
) -> list[Row]:
    """Measure rounds of the in-process engine and of the Ray simulation.

    Args:
        say: takes progress.
        clients: into which the 50,000 training images are divided.
        fraction: of them in a round.
        rounds: turns of the in-process engine.
        ray_rounds: turns under Ray; 0 leaves it out.
        processes: of the in-process engine and of the floor; Ray takes one per core.
        changes: other run settings, for a quick look.
    """
    with images() as found:
        keys = {**keys_of(found, clients, fraction), **changes}
        config = resolve(keys)
        steps = steps_of(config)
        note = f"{steps.clients} clients x {steps.examples} images ({found.what}), {processes} processes of one thread"
        with workers(bare_loop, steps, processes) as bare:
            say("pfl: the in-process engine in turns with the bare loop")
            turns = _in_process(config, bare, rounds, processes)
            rows = [_row("in-process engine / the same steps in a bare loop", turns, 0.85, note)]
            if has_bfloat16(torch.device("cpu")):
                say("pfl: the in-process engine with mixed precision, in turns with the bare loop in float32")
                turns = _in_process(resolve({**keys, "mixed-precision": True}), bare, rounds, processes)
                what = "in-process engine, bfloat16 / the same steps in a bare loop, float32"
                rows.append(_row(what, turns, 0.85, note))
            if ray_rounds:
                say("pfl: the Ray simulation in turns with the bare loop")
                turns, shares = _under_ray(keys, bare, ray_rounds)
                what = "`flotilla run` (Ray) / the same steps in a bare loop"
                rows.append(_row(what, turns, 1.05, f"{note}; {shares}"))
    return rows


def _row(what: str, turns: Sequence[tuple[float, float]], limit: float, note: str) -> Row:
    return row_of_turns(NAME, what, turns, unit="s", limit=limit, note=note)


def keys_of(found: Images, clients: int, fraction: float) -> dict[str, Scalar]:
    """The run's settings."""
    return {
        "dataset": found.dataset,
        "data-root": found.data_root,
        "method": "fedavg",
        "model": "cnn-flat",
        "norm": "none",
        "tiers": "a:1",
        "num-clients": clients,
        "fraction-train": fraction,
        "local-epochs": 1,
        "batch-size": 10,
        "local-test-fraction": 0.0,
        "momentum": 0.0,
        "weight-decay": 0.0,
        "clip-norm": 0.0,
        "device": "cpu",
        "evaluate-every": 10_000,
        "checkpoint-every": 10_000,
    }


def steps_of(config: RunConfig) -> Steps:
    """Say how many steps of which size a round has; shards are of equal size here."""
    clients = config.num_clients
    per_round = max(1, share_of(config.settings.fraction_train, clients))
    examples = len(load(config.data).train_examples) // clients
    return Steps(
        network=config.network.to_json(),
        clients=per_round,
        examples=examples,
        batch_size=config.settings.work.batch_size,
    )


def started(config: RunConfig) -> FlowerStrategy:
    """The server's side, with first weights."""
    strategy = config.strategy()
    for name, tensor in initial_state(strategy.network, torch_generator(1, 0, "server", "initial state")).items():
        strategy.state[name].copy_(tensor)
    return strategy


def _in_process(config: RunConfig, bare: Workers, rounds: int, processes: int) -> list[tuple[float, float]]:
    """Take seconds of rounds of ours and of the floor's, in turns."""
    strategy, turns = started(config), []
    with PoolGrid(config.flat, config.num_clients, processes) as grid:
        strategy.run_round(grid, 1)  # meets the nodes, makes the models
        for number in range(2, rounds + 2):
            began = perf_counter()
            report = strategy.run_round(grid, number)
            took = perf_counter() - began
            if report.rejected or report.abandoned:
                raise RuntimeError(f"a benchmark round went wrong: {report.rejected[:3]}")
            turns.append((took, bare.round()))
    return turns


def _under_ray(keys: dict[str, Scalar], bare: Workers, rounds: int) -> tuple[list[tuple[float, float]], RayShares]:
    """Do the same through the simulation, and see who uses the cores meanwhile."""
    turns: list[tuple[float, float]] = []
    shares = RayShares()

    def pause(ended: Round, _: Pause) -> None:
        shares.end()
        turns.append((sum(ended.phases[phase] for phase in PHASES), bare.round()))
        shares.begin()

    probed_run(keys, rounds, pause)
    return turns, shares
