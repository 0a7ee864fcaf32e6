"""Evaluation: all tiers of a method on a test set, in as few passes as are enough, against a pass for each tier.

Four tiers on random grey images of 28 x 28, by one thread. Where tiers are depths of one network, stages that are the
same are run once (`models.networks.one_pass`); where they are widths, nothing is shared and nothing must be lost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.clock import cpu_seconds
from benchmarks.document import Say
from data import Split
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from server_app.evaluation import Evaluator
from server_app.tier_records import kept_plans
from strategies import DepthFL, FlowerStrategy, HeteroFL, InclusiveFL
from strategies.settings import Settings
from strategies.tiers.tier import parse_tiers

NAME = "evaluation"
_IMAGE, _CLASSES, _WIDTHS = (1, 28, 28), 10, (16, 32, 64, 128)
_DEPTHS, _RATES = "a:1@4, b:1@3, c:1@2, d:1@1", "a:1, b:1/2, c:1/4, d:1/8"
_CASES: dict[str, tuple[type[FlowerStrategy], str, float]] = {
    "DepthFL, four depths": (DepthFL, _DEPTHS, 0.6),
    "InclusiveFL, four depths with last stages of their own": (InclusiveFL, _DEPTHS, 0.9),
    "HeteroFL, four widths": (HeteroFL, _RATES, 1.1),
}


def evaluation(say: Say = print, examples: int = 1000, turns: int = 7) -> list[Row]:
    """Measure.

    Args:
        say: takes progress.
        examples: of the test set.
        turns: of each case.

    Raises:
        AssertionError: the scores differ.
    """
    before, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for what, (method, tiers, limit) in _CASES.items():
            say(f"evaluation: {what}")
            together, each = _ways(method, tiers, examples)
            assert together() == each()
            rows.append(
                row_of_turns(
                    NAME,
                    f"{what}: together / a pass for each tier",
                    [(cpu_seconds(together), cpu_seconds(each)) for _ in range(turns)],
                    unit="ms",
                    scale=1e3,
                    limit=limit,
                    note=f"CPU time; cnn with group norm, {examples:,} random images of 28x28, the same scores",
                )
            )
    finally:
        torch.set_num_threads(before)
    return rows


def _ways(method: type[FlowerStrategy], tiers: str, examples: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Scores of all tiers together, and one by one."""
    network = NetworkSpec("cnn", _IMAGE, _CLASSES, widths=_WIDTHS, norm="group")
    strategy = method(network, Settings(tiers=parse_tiers(tiers)))
    state, context, draws = strategy.state, strategy.context(1), torch_generator(1, 0, "server", "benchmark")
    test = Split(torch.randn(examples, *_IMAGE, generator=draws), torch.randint(_CLASSES, (examples,), generator=draws))
    evaluator = Evaluator(strategy.network, test, torch.device("cpu"))
    wanted = {plan: (strategy.part(context, plan, state), None) for plan in kept_plans(strategy, context).values()}
    return (
        lambda: evaluator.scores(state, wanted),
        lambda: {plan: evaluator.score(state, plan, part, moments) for plan, (part, moments) in wanted.items()},
    )
