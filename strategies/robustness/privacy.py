"""Central differential privacy of the sequence of global states, by node (McMahan, Ramage, Talwar, Zhang, ICLR 2018).

Every difference is clipped to the L2 norm C (`dp-clip`). What is released is

    new = old + (Σ clip(Δ) + N(0, (z·C)²)) / n        per coordinate,

with z the noise multiplier (`dp-noise`) and n the number of nodes that were *asked* to train the coordinate. n is
fixed before any reply is seen: a reply that is missing or rejected counts as zero. One node's whole contribution then
moves the sum by at most C, over all coordinates together, whatever the part it holds; the guarantee is about that
contribution being there or not. A ratio of sums whose denominators depend on the data has no such bound, which is why
so much is refused here: weights by examples, label rows, q-FFL, FedNova, clusters, measured tiers (they follow from the
number of examples and from what earlier replies took), and selections that look at losses, sizes or updates.

Epsilon is that of flwr's accountant, without amplification by sampling (it asks for that with fixed clipping, too). An
abandoned round releases nothing and costs nothing.

Not covered: the metrics (losses, accuracies, who replied), and the moments of static batch norm, which are asked for to
score. Noise comes from a key that the server draws itself, because clients are told the run's seed, and from what it is
added to. The key stands in the checkpoints, so a resumed run that gets the same replies releases the same states. From
other replies it makes other means, and equal noise on two means would show their difference: these have noise of their
own, and count as releases of their own. Going back (`guard-rollbacks`) is refused: whom a run then leaves out is chosen
by differences without noise. NumPy's generator is not made for cryptography, and
floating-point noise has known attacks (Mironov, CCS 2012): flwr's own noise has both limits as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from flwr.serverapp import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, SamplingMethod
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.block_scatter import unit_pairs
from models.randomness import generator
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.robustness.options import GuardOptions

WHY_TOLD = (
    "with dp-noise, because a measured tier depends on the number of examples and on past replies, and so would who is "
    "asked to train which coordinate"
)


class BudgetSpent(RuntimeError):
    """Another release would cost more than `dp-epsilon` allows."""


class Privacy(Stateful):
    """The noise of a run, and what it has cost.

    Args:
        options: of the guard; the noise must be on.
        nodes: number of nodes.

    Attributes:
        key: what the noise is drawn from; secret.
        releases: states that were released.
        made: marks of what was released in rounds that are repeated, by round.
        on_release: told of every release before it is made: the round, and a mark that shows nothing of it.
    """

    on_release: Callable[[int, str], None] | None = None

    def __init__(self, options: GuardOptions, nodes: int) -> None:
        self._options, self._nodes = options, nodes
        self.key = secrets.randbits(128)
        self.releases = 0
        self.made: Mapping[int, Collection[str]] = {}

    def add_noise(self, state: Mapping[str, Tensor], average: PartialAverage, factor: float, round_number: int) -> None:
        """Add noise to a state that was just averaged, wherever somebody was asked to train, and count the release.

        Args:
            state: changed in place.
            average: what made it.
            factor: by which differences were multiplied.
            round_number: 1-based.

        Raises:
            BudgetSpent: nothing has been added then.
        """
        secret = self._secret(state)
        mark = generator(secret, round_number, "server", "mark of a release").bytes(8).hex()
        releases = self.releases + len({mark, *self.made.get(round_number, ())})
        limit = self._options.dp_epsilon
        if limit and epsilon(self._options, self._nodes, releases) > limit:
            raise BudgetSpent(f"a release more than {self.releases} would cost more than dp-epsilon = {limit:g}")
        if self.on_release is not None:
            self.on_release(round_number, mark)
        draws = generator(secret, round_number, "server", "privacy")
        deviation = self._options.dp_noise * self._options.dp_clip * factor
        for name, asked in average.denominators().items():
            tensor = state[name]
            noise = torch.from_numpy(draws.standard_normal(tuple(tensor.shape), dtype=np.float32).reshape(-1))
            shape = unit_pairs(tensor.shape, asked.shape[::2])
            added = torch.where(asked > 0, noise.view(shape) * deviation / asked.clamp_min(1), -0.0)
            tensor.add_(added.view(tensor.shape))
        self.releases = releases

    def _secret(self, state: Mapping[str, Tensor]) -> int:
        """A number of 128 bits that nobody without the key can work out, another one for every state."""
        digest = blake2b(key=self.key.to_bytes(16, "little"), digest_size=16)
        for name in sorted(state):
            digest.update(state[name].reshape(-1).numpy().data)
        return int.from_bytes(digest.digest(), "little")

    def report(self) -> dict[str, Any]:
        """What was spent so far."""
        spent = epsilon(self._options, self._nodes, self.releases)
        return {"epsilon": spent, "delta": self._options.dp_delta, "releases": self.releases}

    def learn(self, outcome: RoundOutcome) -> None:
        """Say what was spent so far."""
        outcome.report.guard |= self.report()

    def checkpoint(self) -> Saved:
        """What the noise is drawn from, and how often it was."""
        return {}, {"key": hex(self.key), "releases": self.releases}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        del tensors
        self.key, self.releases = int(values["key"], 16), int(values["releases"])


def epsilon(options: GuardOptions, nodes: int, releases: int) -> float:
    """Epsilon at `dp-delta` of so many releases."""
    if not releases:
        return 0.0
    from flwr.serverapp import RdpAccountant  # two seconds of imports

    relation, sampling = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
    accountant = RdpAccountant(PrivacyConfig(options.dp_delta, nodes, relation, sampling))
    accountant.compose(GaussianPrivacyEvent(options.dp_noise, nodes, nodes), releases)
    return accountant.get_epsilon(options.dp_delta)


def affordable(options: GuardOptions, nodes: int, most: int) -> int:
    """How many releases `dp-epsilon` pays for, at most `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if epsilon(options, nodes, middle) <= options.dp_epsilon else (low, middle - 1)
    return low
