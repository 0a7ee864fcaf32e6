"""A round of devices of four ranks, as parity tests of rules for pairs see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from models import NetworkSpec
from models.adapters.adapter import Adapter
from models.algebra.pairs import Pair
from models.algebra.plans import Plan
from models.networks.build import submodel
from strategies import METHODS, FlowerStrategy, Settings
from strategies.aggregation.global_state import GlobalState
from strategies.tiers.tier import parse_ranks

RANK = 4
SPEC = NetworkSpec("mlp", (1, 4, 4), 5, widths=(9, 7), norm="none", adapter=Adapter(rank=RANK, alpha=8.0))
CONVOLUTIONS = NetworkSpec(
    "cnn-flat",
    (1, 8, 8),
    5,
    widths=(5, 6, 7),
    norm="none",
    adapter=Adapter(rank=RANK, alpha=8.0, targets=("linear", "convolution")),
)
SETTINGS = Settings(tiers=parse_ranks("a:4, b:2, c:1", RANK), nodes=4)
RANKS = [4, 2, 2, 1]
EXAMPLES = [10, 30, 5, 40]
SHARES = [n / sum(EXAMPLES) for n in EXAMPLES]


def made(method: str, spec: NetworkSpec = SPEC, **options: Any) -> FlowerStrategy:
    return METHODS[method](spec, SETTINGS, **options)


@dataclass(frozen=True, kw_only=True)
class Replied:
    """A round: what devices of four ranks began with, what they made of it, and the server's state after it."""

    strategy: FlowerStrategy
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    left: Sequence[Mapping[str, Tensor]]

    @property
    def pairs(self) -> Sequence[Pair]:
        return self.strategy.runner.layout.pairs

    def factors(self, pair: Pair) -> list[tuple[Tensor, Tensor]]:
        """What every device sent."""
        return [(one[pair.b], one[pair.a]) for one in self.left]


def replied(method: str, moved: float = 0.3, plans: Sequence[Plan] | None = None, **options: Any) -> Replied:
    """Fold differences as a run does: the strategy's own average, step and refinement."""
    strategy = made(method, **options)
    layout, state = strategy.runner.layout, strategy.runner.main
    draws = torch.Generator().manual_seed(3)
    state.flat.copy_(torch.randn(state.flat.shape, generator=draws))
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    plans = [Plan(Fraction(rank, RANK)) for rank in RANKS] if plans is None else plans
    left = []
    for plan, examples in zip(plans, EXAMPLES, strict=True):
        part = submodel(strategy.network, plan)
        difference = moved * torch.randn(part.numel, generator=draws)
        weight = float(examples) if strategy.BY_EXAMPLES else 1.0
        state.average.add(part, difference, weight, weight)
        left.append({name: part.gather(before)[name] + piece for name, piece in part.split(difference).items()})
    taken(strategy, state)
    assert layout.pairs
    return Replied(strategy=strategy, before=before, after=state.tensors, left=left)


def taken(strategy: FlowerStrategy, state: GlobalState) -> None:
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    state.average.finish(state.tensors, out=state.tensors)
    if strategy.refines:
        strategy.refine(strategy.context(1), before, state.tensors, state.average, {})


def near(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= tolerance * other.norm().clamp_min(1e-9))


def best(product: Tensor) -> Tensor:
    """Of rank R, by a dense SVD."""
    u, values, vh = torch.linalg.svd(product)
    found: Tensor = (u[:, :RANK] * values[:RANK]) @ vh[:RANK]
    return found
