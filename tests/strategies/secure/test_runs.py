"""Runs with secure aggregation: the model of the run without, to the quantiser's error, whoever drops out."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from client_app.app import app
from flotilla.local.grid import LocalGrid, contexts
from models import initial_state
from models.randomness import torch_generator
from protocol.secure.fixed_point import step
from protocol.secure.messages import UNMASK
from strategies import FlowerStrategy
from strategies.round.secure_sums import evenly
from tests.strategies.secure.devices import assigned
from tests.strategies.secure.keys import CLIP, ON, PLAIN, of_type, unmasked
from tests.support import TINY, Outcome, Player, Stopped, configured, failed, tier_of, trains
from tests.support import play as play_in


def first_of(play: Player, tier: str) -> list[int]:
    """The nodes of a tier."""
    row = play.once(**ON).rows[0]
    assert row["selected_tiers"] == {"a": 3, "b": 3}
    config = configured(**ON)
    return [node for node in range(6) if tier_of(config.strategy(), node).name == tier]


def far(one: Outcome, other: Outcome) -> float:
    return max(float((one.state[name] - other.state[name]).abs().max()) for name in one.state)


# ---- (a) the same model ----------------------------------------------------------------------------------------------


def test_the_model_is_that_of_the_run_without_masks_bit_for_bit(play: Player) -> None:
    ours, theirs = unmasked()
    with ours, theirs:
        without = play(**ON)
    assert play.once(**ON).hash == without.hash


@pytest.mark.parametrize("keys", [{}, {"method": "fedavg"}], ids=["unweighted", "by examples"])
def test_the_model_is_that_of_the_run_without_to_the_quantisers_error(play: Player, keys: dict[str, Any]) -> None:
    """|error of a mean| < step · n · max a / Σ a ≤ step · n: one round, so that errors do not train on."""
    secure, plain = (play.once(num_server_rounds=1, **known | keys) for known in (ON, PLAIN))
    assert 0 < far(secure, plain) < 6 * step(CLIP) + 1e-6
    a, b = secure.rows[0], plain.rows[0]
    assert a["accepted"] == b["accepted"] == 6
    assert a["train_loss"] == pytest.approx(b["train_loss"], abs=6 * step(64.0) * 3)
    assert a["train_accuracy"] == pytest.approx(b["train_accuracy"], abs=1e-4)
    assert a["coverage"] == b["coverage"]


def test_tiers_that_train_one_part_are_one_group(play: Player) -> None:
    row = play.once(num_server_rounds=1, **ON | {"method": "fedavg"}).rows[0]
    assert [(group["members"], group["threshold"]) for group in row["secure"]] == [(6, 4)]
    row = play.once(**ON).rows[0]
    assert sorted((group["tier"], group["members"]) for group in row["secure"]) == [("a", 3), ("b", 3)]


# ---- (b) who drops out -----------------------------------------------------------------------------------------------


def test_a_node_that_drops_out_before_its_masked_reply(play: Player) -> None:
    node = first_of(play, "a")[1]

    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, node) else reply]

    secure = play(faults, num_server_rounds=1, **ON)
    plain = play(faults, num_server_rounds=1, **PLAIN)
    assert far(secure, plain) < 6 * step(CLIP) + 1e-6
    row = secure.rows[0]
    assert row["accepted"] == 5
    assert [one["node"] for one in row["rejected"]] == [node]
    assert sorted(group["summed"] for group in row["secure"]) == [2, 3]


def test_a_node_that_drops_out_after_its_masked_reply_counts(play: Player) -> None:
    node = first_of(play, "b")[0]

    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if of_type(UNMASK, request, node) else reply]

    out = play(faults, **ON)
    assert out.hash == play.once(**ON).hash
    assert [row["accepted"] for row in out.rows] == [6, 6]
    assert sorted(group["opened_by"] for group in out.rows[0]["secure"]) == [2, 3]
    (without,) = [one for group in out.rows[0]["secure"] for one in group.get("opened_without", ())]
    assert without["node"] == node
    assert without["reason"].startswith("secure aggregation, unmask: error 2")
    assert out.rejected == []


def test_below_the_threshold_the_group_does_not_count_and_the_run_goes_on(play: Player) -> None:
    one, other, _ = first_of(play, "a")

    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if any(trains(request, node, [1]) for node in (one, other)) else reply]

    out = play(faults, **ON)
    first, second = out.rows
    assert (first["accepted"], first["abandoned"], second["accepted"]) == (3, False, 6)
    why = "secure aggregation: there is no sum of tier a: 1 of 3 nodes are left, 2 are needed"
    assert [one["reason"] for one in first["rejected"] if "error" not in one["reason"]] == [why]


def test_a_tier_of_too_few_is_left_out_and_named(play: Player) -> None:
    out = play(num_server_rounds=1, **ON | {"tier_assignment": "dynamic", "secure_threshold": 3, "min_cover": 3})
    sizes = out.rows[0]["selected_tiers"]
    wanted = sum(size for size in sizes.values() if size >= 3)
    assert out.rows[0]["accepted"] == wanted
    for tier, size in sizes.items():
        if size < 3:
            named = [one["reason"] for one in out.rejected if f"no sum of tier {tier}" in one["reason"]]
            assert [one.partition(": ")[2].partition(": ")[2] for one in named] == [
                f"{size} nodes train its part, and a sum takes 3"
            ] * size


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one(play: Player) -> None:
    """Nothing outlives a round, not even that it was stopped between keys and masked replies."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, rounds=[2]):
            raise Stopped
        return [reply]

    folder = play.new_folder()
    with pytest.raises(Stopped):
        play_in(folder, faults, **ON)
    assert play(resume=str(folder), **ON).hash == play.once(**ON).hash


def test_flowers_own_loop_opens_sums_too() -> None:
    found = []
    for start in (FlowerStrategy.start, Strategy.start):
        method = configured(**ON | {"method": "fedavg"}).strategy()
        grid = LocalGrid(app, contexts({**TINY, "num-clients": 6}, 6))
        initial = ArrayRecord(initial_state(method.network, torch_generator(1, 0, "server", "test")))
        result = start(method, grid, initial, num_rounds=2)
        assert [group["summed"] for group in method.report.secure] == [6]
        found.append({name: array.numpy().tolist() for name, array in result.arrays.items()})
    assert found[0] == found[1]


def test_large_groups_are_divided_evenly() -> None:
    members = [assigned(i) for i in range(130)]
    assert [len(group) for group in evenly(members, 64)] == [43, 43, 44]
    assert [one.node.id for group in evenly(members, 64) for one in group] == list(range(130))
    assert [len(group) for group in evenly(members[:64], 64)] == [64]


def test_without_it_nothing_of_it_is_in_the_metrics(play: Player) -> None:
    assert "secure" not in play.once(num_server_rounds=1, **PLAIN).rows[0]
