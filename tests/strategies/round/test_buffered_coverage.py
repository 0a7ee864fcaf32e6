"""Coordinates that only slow, large devices hold get their step, which FedBuff's rule for one network denies them.

Every reply's difference is 1 wherever its device holds something, so a coordinate has got its step when it moved by 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import Message

from flotilla.local.grid import contexts
from models.networks.build import initial_state
from models.randomness import torch_generator
from protocol import DIFFERENCE, encode
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import ClientUpdate
from strategies.round.buffer import Buffer
from strategies.virtual.clock import VirtualClock
from tests.support import address_of, configured, keys_of, play, trains

FLEET = """
[[device]]
name = "small"
count = 6
gmacs = 1000000.0
step-ms = 5.0
jitter = 0.2
spread = 0.2

[[device]]
name = "large"
count = 2
gmacs = 1000000.0
step-ms = 60.0
jitter = 0.1
"""
ROUNDS = 40
WIDE, COMMON = (15, 0), (0, 0)  # of the first layer: a unit that only tier a has, and one that everybody has


@dataclass(frozen=True, kw_only=True)
class Said:
    """A reply that was added: in which round, whether a large device's, how old, and Σ of what it counts for."""

    round: int
    large: bool
    age: int
    counts: float

    @property
    def share(self) -> float:
        """Its staleness weight."""
        return float((1 + self.age) ** -0.5)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Said], dict[tuple[int, int], float]]:
    """The replies of a run in their order, and how far the two coordinates came."""
    folder = tmp_path_factory.mktemp("coverage")
    (folder / "fleet.toml").write_text(FLEET)
    keys: dict[str, Any] = {
        "method": "heterofl",
        "heterofl_label_rows": False,
        "norm": "none",
        "tiers": "a:1, b:1/4",
        "tier_assignment": "node",
        "simulated_devices": str(folder / "fleet.toml"),
        "aggregation_mode": "buffered",
        "buffer_size": 5,
        "num_clients": 8,
        "num_server_rounds": ROUNDS,
        "guard_norm": "off",
        "guard_rollbacks": 0,
    }
    config, said = configured(**keys), list[Said]()
    assert config.settings.fleet is not None
    clock = VirtualClock(
        config.settings.fleet, config.network, nodes=8, seed=1, deadline=60.0, batch_size=128, whole=True
    )
    nodes = contexts({**keys_of(**keys), "client-state": ""}, 8)
    for node in range(8):
        nodes[address_of(node)].node_config["tier"] = "a" if clock.device(node).name == "large" else "b"
    note = Buffer._note

    def noted(self: Buffer, assignment: TrainAssignment, update: ClientUpdate) -> None:
        age = self._now - assignment.asked_in
        counts = update.denominator / (1 + age) ** -0.5
        said.append(Said(round=self._now, large=assignment.tier == "a", age=age, counts=counts))
        note(self, assignment, update)

    def ones(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            arrays = next(iter(reply.content.array_records.values()))
            arrays[DIFFERENCE] = encode(torch.ones(arrays[DIFFERENCE].shape))
        return [reply]

    with patch.object(Buffer, "_note", noted):
        out = play(folder / "run", ones, nodes=nodes, **keys)
    begun = initial_state(config.network, torch_generator(1, 0, "server", "initial state"))
    name = next(name for name, tensor in begun.items() if tensor.dim() == 2)
    moved = {place: float(out.state[name][place] - begun[name][place]) for place in (WIDE, COMMON)}
    return said, moved


def steps(said: list[Said], step: Callable[[list[Said], list[Said], float], float], place: tuple[int, int]) -> float:
    """How far a coordinate comes by a rule of (replies that hold it, all replies, p), summed over the rounds."""
    total, p = 0.0, 0.0
    for number in range(1, ROUNDS + 1):
        everybody = [one for one in said if one.round == number]
        holders = [one for one in everybody if one.large or place == COMMON]
        share = sum(one.share * one.counts for one in holders) / sum(one.share * one.counts for one in everybody)
        p += max(0.1, 1 / number) * (share - p)
        total += step(holders, everybody, p) if holders else 0.0
    return total


def ours(holders: list[Said], everybody: list[Said], p: float) -> float:
    """The formula of `strategies.round.buffer`, whose weighted mean of differences is 1."""
    del holders
    counted = sum(one.share * one.counts for one in everybody) / sum(one.counts for one in everybody)
    return 1 - p * (1 - counted)


def fedbuff(holders: list[Said], everybody: list[Said], p: float) -> float:
    """Algorithm 1: Σ s Δ / K, weighted by examples; who does not hold the coordinate sends nothing of it."""
    del p
    return sum(one.share * one.counts for one in holders) / sum(one.counts for one in everybody)


def covered(said: list[Said]) -> int:
    return len({one.round for one in said if one.large})


def test_large_devices_are_seldom_there_and_stale(found: tuple[list[Said], dict[tuple[int, int], float]]) -> None:
    said, _ = found
    large = [one for one in said if one.large]
    assert 3 <= covered(said) < ROUNDS / 2
    assert min(one.age for one in large[2:]) >= 3
    assert sum(one.age for one in said if not one.large) / len(said) < 2


@pytest.mark.parametrize("place", [WIDE, COMMON])
def test_every_coordinate_moves_by_the_formula(
    found: tuple[list[Said], dict[tuple[int, int], float]], place: tuple[int, int]
) -> None:
    said, moved = found
    assert moved[place] == pytest.approx(steps(said, ours, place), rel=1e-4)


def test_what_only_large_devices_hold_gets_its_step(
    found: tuple[list[Said], dict[tuple[int, int], float]],
) -> None:
    said, moved = found
    assert moved[WIDE] > 0.85 * covered(said)


def test_without_coverage_weights_it_starves(found: tuple[list[Said], dict[tuple[int, int], float]]) -> None:
    """The same replies by FedBuff's rule: under a fifth of the step, where common ones get most of theirs."""
    said, moved = found
    starved = steps(said, fedbuff, WIDE) / covered(said)
    assert starved < 0.2
    assert steps(said, fedbuff, COMMON) / ROUNDS > 0.5
    assert moved[COMMON] == pytest.approx(steps(said, fedbuff, COMMON), rel=1e-3)  # who holds all moves as in FedBuff
