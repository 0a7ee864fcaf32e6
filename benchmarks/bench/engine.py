"""A whole round through `flotilla run` against the engine's floor: the same round with clients that only burn CPU time.

Both under Ray, in one run and in turns (`benchmarks.bench.flower_overhead`). After every round of ours, each node
that took part gets
one more message: to burn as many seconds of CPU time as it has just spent in forward, backward and optimiser. That
message and its reply carry one number instead of the network; it is pushed and pulled in the same way, to the same
actors. So the ratio has everything that we add: slicing, encoding, moving the weights, folding them, finishing; and, in
a row of its own, also evaluating every tier's network after every round, checkpoint and metrics.
"""

from __future__ import annotations

from benchmarks.bench.flower_overhead.driver import Pause, Round, probed_run
from benchmarks.bench.pfl import PHASES
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.document import Say
from benchmarks.images import images
from protocol import Scalar

NAME = "engine"
# The default job: HeteroFL's CNN on digits, 20 clients in five tiers, evaluated every round.
DEFAULT_JOB: dict[str, Scalar] = {}
# The same trained by autograd, so that what we add is measured against as much computing as anywhere else.
BY_LOOP: dict[str, Scalar] = {"train-as": "loop"}


def engine(say: Say = print, rounds: int = 11, resnet_rounds: int = 5) -> list[Row]:
    """Measure rounds of the default job and of a ResNet on CIFAR-10.

    Args:
        say: takes progress.
        rounds: turns of the default job.
        resnet_rounds: turns of the ResNet; 0 leaves it out.
    """
    say("engine: the default job under Ray, in turns with clients that only compute")
    rows = _rows("default job, train-as loop", BY_LOOP, rounds, limit=1.2)
    rows += _rows("default job", DEFAULT_JOB, rounds)
    if resnet_rounds:
        say("engine: the ResNet, likewise")
        with images() as found:
            keys = _resnet(found.dataset, found.data_root)
            rows += _rows(f"ResNet, 10 clients x 50 images ({found.dataset})", keys, resnet_rounds, limit=1.2)
    return rows


def _resnet(dataset: str, data_root: str) -> dict[str, Scalar]:
    """Ten of 1,000 clients, who have 50 images each."""
    return {
        "dataset": dataset,
        "data-root": data_root,
        "model": "resnet",
        "num-clients": 1000,
        "fraction-train": 0.01,
        "local-epochs": 1,
        "batch-size": 10,
        "local-test-fraction": 0.0,
        "evaluate-every": 10_000,
    }


def _rows(what: str, keys: dict[str, Scalar], rounds: int, limit: float | None = None) -> list[Row]:
    trained: list[tuple[float, float]] = []
    whole: list[tuple[float, float]] = []

    def pause(ended: Round, pause: Pause) -> None:
        floor = pause.burn(ended.computing)
        trained.append((sum(ended.phases[phase] for phase in PHASES), floor))
        whole.append((ended.whole, floor))

    probed_run(keys, rounds, pause)
    note = "floor: the same round with clients that only burn the CPU seconds that training took"
    return [
        row_of_turns(NAME, f"{what}: round / engine floor", trained, unit="s", limit=limit, note=note),
        row_of_turns(NAME, f"{what}: with evaluation, checkpoint, metrics / engine floor", whole, unit="s"),
    ]
