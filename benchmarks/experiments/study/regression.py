"""The regression: does a round gain more from clients with much data, with a high loss, or with both.

    L_{t-1} - L_t = β_n·n_t + β_l·l_t + β_nl·(nl)_t + γ₁·L_{t-1} + γ₂/t + γ₃ + noise

L_t is the test loss of the global network after round t. n_t is the mean of log n_eff over the clients of the round,
less the mean over all rounds; l_t the mean of their log loss, each less the mean of its tier's clients in that round
(losses of different tiers are not comparable); (nl)_t the mean of the products. Clients are drawn uniformly, so that
who took part does not depend on the state of the run. The three are in standard deviations. Intervals: seeds drawn with
replacement; with ten seeds they are a little too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.randomness import generator

Floats = NDArray[np.float64]
NAMES = ("log n_eff", "log loss", "product")
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Run:
    """What the regression needs of a run: the loss after every round, and (log n_eff, log loss) of who took part."""

    loss: Sequence[float]
    chosen: Sequence[Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients and what is known of them.

    Attributes:
        coefficients: by name; loss decrease (nats) per standard deviation.
        low, high: the middle 95 % of the draws.
        rounds: number of rounds that were fitted.
        explained: share of the variance that all terms explain (R²).
        added: how much of that the three terms add to the controls.
    """

    coefficients: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    rounds: int
    explained: float
    added: float


def fit(runs: Mapping[int, Run], seed: int = 1) -> Fit:
    """Fit all rounds but the first of some runs, one per seed."""
    size = np.mean([log_n for run in runs.values() for clients in run.chosen for log_n, _ in clients])
    blocks = [_rounds(run, float(size)) for run in runs.values()]
    scale = np.concatenate([terms for terms, _, _ in blocks]).std(0)
    found, explained, added = _solve(blocks, scale)
    draws = generator(seed, 0, "server", "bootstrap")
    many = np.array(
        [_solve([blocks[i] for i in draws.integers(len(blocks), size=len(blocks))], scale)[0] for _ in range(DRAWS)]
    )
    low, high = np.quantile(many, [0.025, 0.975], axis=0)
    rounds = sum(len(decrease) for _, _, decrease in blocks)
    middle, least, most = (dict(zip(NAMES, map(float, values), strict=True)) for values in (found, low, high))
    return Fit(coefficients=middle, low=least, high=most, rounds=rounds, explained=explained, added=added)


def _rounds(run: Run, size: float) -> tuple[Floats, Floats, Floats]:
    """Terms, controls and loss decrease of the rounds after the first."""
    terms, controls, decrease = [], [], []
    for i in range(1, len(run.loss)):
        clients = np.array(run.chosen[i])
        if not len(clients):  # nobody was asked
            continue
        log_n, log_loss = clients[:, 0] - size, clients[:, 1]
        terms.append([log_n.mean(), log_loss.mean(), (log_n * log_loss).mean()])
        controls.append([run.loss[i - 1], 1 / (i + 1), 1.0])
        decrease.append(run.loss[i - 1] - run.loss[i])
    return np.array(terms), np.array(controls), np.array(decrease)


def _solve(blocks: Sequence[tuple[Floats, Floats, Floats]], scale: Floats) -> tuple[Floats, float, float]:
    terms, controls, decrease = (np.concatenate(part) for part in zip(*blocks, strict=True))
    everything = np.hstack([terms / scale, controls])
    coefficients = np.linalg.lstsq(everything, decrease, rcond=None)[0]
    total = float(((decrease - decrease.mean()) ** 2).sum())
    without = np.linalg.lstsq(controls, decrease, rcond=None)[0]
    explained, alone = (
        1 - float(((decrease - matrix @ values) ** 2).sum()) / total
        for matrix, values in ((everything, coefficients), (controls, without))
    )
    return coefficients[:3], explained, explained - alone
