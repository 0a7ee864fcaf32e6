"""Buffered rounds: what they are equal to, that they repeat themselves, and what goes wrong in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message

from models.errors import SettingError
from models.networks.build import initial_state
from models.randomness import torch_generator
from protocol import DIFFERENCE, Scalar, encode
from strategies import METHODS
from strategies.flower_adapter import NothingLearnt
from strategies.selection import SELECTORS
from tests.support import Outcome, Player, Stopped, configured, failed, trains
from tests.support import play as play_in

ALIKE = '[[device]]\nname = "one"\ngmacs = 1000000.0\nstep-ms = 10.0\n'
UNLIKE = """
[[device]]
name = "fast"
count = 5
gmacs = 1000000.0
step-ms = 5.0
jitter = 0.1
spread = 0.2

[[device]]
name = "slow"
count = 3
gmacs = 1000000.0
step-ms = 40.0
jitter = 0.1
"""
BUFFERED: dict[str, Any] = {
    "aggregation_mode": "buffered",
    "buffer_size": 2,
    "fraction_train": 0.6,
    "num_clients": 8,
    "num_server_rounds": 6,
    "deadline": 60.0,
}


ONE: dict[str, Any] = {"method": "fedrolex", "tiers": "a:1", "heterofl_label_rows": False, "aggregation": "uniform"}
SECURE: dict[str, Any] = {"secure_aggregation": True, "min_cover": 3, "secure_threshold": 3, "buffer_size": 5}


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of fleets by name."""
    folder = tmp_path_factory.mktemp("fleets")
    told = {
        "alike": ALIKE,
        "unlike": UNLIKE,
        "lossy": UNLIKE.replace("jitter", "failure = 0.4\navailable = 0.8\njitter"),
    }
    for name, text in told.items():
        (folder / f"{name}.toml").write_text(text)
    return {name: str(folder / f"{name}.toml") for name in told}


def timeless(out: Outcome) -> list[dict[str, Any]]:
    """Metrics without wall times."""
    return [
        {key: value for key, value in row.items() if "seconds" not in key and "bytes" not in key} for row in out.rows
    ]


# ---- what they are equal to -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedavg", "fedavgm"])
def test_a_buffer_of_everybody_at_one_speed_is_rounds(play: Player, fleets: dict[str, str], method: str) -> None:
    keys: dict[str, Any] = {"method": method, "simulated_devices": fleets["alike"], "num_server_rounds": 3}
    rounds = play.once(**keys)
    buffered = play(**keys, aggregation_mode="buffered", buffer_size=6)
    assert buffered.hash == rounds.hash
    assert [row["virtual_elapsed"] for row in buffered.rows] == [row["virtual_elapsed"] for row in rounds.rows]
    assert [row["buffer"]["staleness_max"] for row in buffered.rows] == [0, 0, 0]


@pytest.mark.parametrize("method", ["heterofl", "fedrolex", "splitmix"])
def test_a_buffer_of_everybody_is_rounds_but_for_the_order_of_sums(
    play: Player, fleets: dict[str, str], method: str
) -> None:
    keys: dict[str, Any] = {"method": method, "simulated_devices": fleets["unlike"], "num_clients": 8}
    rounds, buffered = play.once(**keys), play(**keys, aggregation_mode="buffered", buffer_size=8)
    for name, tensor in rounds.state.items():
        assert torch.allclose(buffered.state[name], tensor, atol=1e-4), name


def test_ages_that_count_alike_leave_the_partial_average(play: Player, fleets: dict[str, str]) -> None:
    """Stale or not, a round is the mean of its replies where the exponent is 0."""
    out = play(constant(1.0), simulated_devices=fleets["unlike"], method="fedavg", staleness_exponent=0.0, **BUFFERED)
    before = initial(method="fedavg", simulated_devices=fleets["unlike"], **BUFFERED)
    assert max(row["buffer"].get("staleness_max", 0) for row in out.rows) > 1
    for name, tensor in out.state.items():
        assert torch.allclose(tensor - before[name], torch.full_like(tensor, 6.0), atol=1e-4)


def test_what_everybody_holds_moves_as_in_fedbuff(play: Player, fleets: dict[str, str]) -> None:
    """Σ s n Δ / Σ n, with all differences 1 and the n of FedAvg."""
    keys: dict[str, Any] = {"method": "fedavg", "simulated_devices": fleets["unlike"], **BUFFERED}
    out, before = play(constant(1.0), **keys), initial(**keys)
    moved = sum(row["buffer"]["counted"] for row in out.rows)
    assert 0 < moved < 5.9
    for name, tensor in out.state.items():
        assert torch.allclose(tensor - before[name], torch.full_like(tensor, moved), atol=1e-4)


def initial(**keys: Scalar) -> dict[str, torch.Tensor]:
    return dict(initial_state(configured(**keys).network, torch_generator(1, 0, "server", "initial state")))


def constant(value: float) -> Any:
    """Every difference is so much everywhere, whatever was trained."""

    def faults(request: Message, reply: Message) -> list[Message]:
        return [with_difference(reply, lambda old: torch.full_like(old, value))] if trains(request) else [reply]

    return faults


def with_difference(reply: Message, change: Any) -> Message:
    arrays = next(iter(reply.content.array_records.values()))
    old = torch.from_numpy(arrays[DIFFERENCE].numpy().copy())
    arrays[DIFFERENCE] = encode(change(old))
    return reply


# ---- they repeat themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "heterofl"},
        {"method": "fedrolex", "slice_at": "server"},
        {"method": "fedecover", "tier_assignment": "dynamic"},
        {"method": "splitmix"},
        {"method": "fedavgm"},
        {"method": "nefl", "model": "cnn", "widths": "4, 8, 8, 8"},
        {"codec": "topk"},
        {"codec": "ef21"},
        {"codec": "qsgd", "aggregation": "q-fedavg"},
        {"aggregation": "fednova"},
        {"selection": "oort"},
        {"selection": "divfl"},
        {"selection": "by-size-replacement"},
        {"tier_assignment": "measured"},
    ],
    ids=lambda keys: " ".join(map(str, keys.values())),
)
def test_stopped_in_the_middle_and_resumed_it_is_the_same_run(
    play: Player, fleets: dict[str, str], keys: dict[str, Any]
) -> None:
    keys = {"simulated_devices": fleets["lossy"], "quorum": 0.0, **BUFFERED, **keys}
    whole = play(**keys)
    assert any(row["buffer"]["training"] for row in whole.rows)
    folder = play.new_folder()

    def stop(request: Message, reply: Message) -> list[Message]:
        if trains(request, rounds=[4]):
            raise Stopped
        return [reply]

    with pytest.raises(Stopped):
        play_in(folder, stop, **keys)
    resumed = play(**keys, resume=str(folder))
    assert resumed.hash == whole.hash
    assert timeless(resumed) == timeless(whole)
    assert [row["virtual_elapsed"] for row in resumed.rows] == [row["virtual_elapsed"] for row in whole.rows]
    assert play(**keys).hash == whole.hash


def test_more_rounds_go_on_with_who_was_training(play: Player, fleets: dict[str, str]) -> None:
    keys: dict[str, Any] = {"simulated_devices": fleets["unlike"], **BUFFERED}
    short = play(**keys | {"num_server_rounds": 3})
    assert play(**keys, resume=str(short.path)).hash == play(**keys).hash


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_who_is_never_heard_of_again_stops_nothing(play: Player, fleets: dict[str, str]) -> None:
    """Two in five are lost: a place is empty until the deadline then, and where all are, a round has who replied."""
    out = play(simulated_devices=fleets["lossy"], quorum=0.5, **BUFFERED | {"num_server_rounds": 12})
    assert any("not heard" in one["reason"] for one in out.rejected)
    assert {row["accepted"] for row in out.rows} <= {1, 2}
    assert not any(row["abandoned"] for row in out.rows)
    waited = [row["virtual_seconds"] for row in out.rows]
    assert sorted(waited)[6] < 0.2  # others came, and nobody waited for the lost


def test_errors_make_room_and_are_named(play: Player, fleets: dict[str, str]) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, 1) or trains(request, 4) else reply]

    out = play(faults, simulated_devices=fleets["unlike"], **BUFFERED)
    assert {one["node"] for one in out.rejected} <= {1, 4}
    assert out.rejected
    assert all("out of battery" in one["reason"] for one in out.rejected)
    assert [row["accepted"] for row in out.rows] == [2] * 6


@pytest.mark.usefixtures("own_time")
def test_replies_that_the_network_loses_are_given_up_at_the_deadline(play: Player, fleets: dict[str, str]) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [] if trains(request, 2) else [reply]

    out = play(faults, simulated_devices=fleets["unlike"], **BUFFERED | {"deadline": 0.1, "num_server_rounds": 25})
    assert [row["accepted"] for row in out.rows] == [2] * 25
    assert {one["node"] for one in out.rejected} == {2}
    assert all("late" in one["reason"] for one in out.rejected)


def test_where_nobody_replies_the_model_stays(fleets: dict[str, str], tmp_path: Path) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request) else reply]

    with pytest.raises(NothingLearnt):
        play_in(tmp_path, faults, simulated_devices=fleets["unlike"], **BUFFERED)


@pytest.mark.parametrize("lie", ["nan", "longer", "far", "nonce", "nothing"])
def test_a_hostile_reply_is_refused_as_in_rounds(play: Player, fleets: dict[str, str], lie: str) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if not trains(request, 3):
            return [reply]
        if lie == "nan":
            return [with_difference(reply, lambda old: old * torch.nan)]
        if lie == "longer":
            return [with_difference(reply, lambda old: torch.cat([old, old]))]
        if lie == "far":
            return [with_difference(reply, lambda old: 1e4 * old)]
        if lie == "nothing":
            reply.content["arrays"] = ArrayRecord()
            return [reply]
        for record in reply.content.config_records.values():
            if "nonce" in record:
                record["nonce"] = "0" * 32
        return [reply]

    keys: dict[str, Any] = {"simulated_devices": fleets["unlike"], "num_clients": 8, "num_server_rounds": 2}
    rounds, buffered = play(faults, **keys), play(faults, **keys | BUFFERED | {"num_server_rounds": 20})
    reasons = {one["reason"].split(" above ")[0][:20] for one in rounds.rejected}
    assert {one["node"] for one in buffered.rejected} == {3}
    assert {one["reason"].split(" above ")[0][:20] for one in buffered.rejected} <= reasons or lie == "far"
    assert all(tensor.isfinite().all() for tensor in buffered.state.values())
    assert [row["accepted"] for row in buffered.rows] == [2] * 20


# ---- who can have them -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_or_says_why_not(play: Player, fleets: dict[str, str], method: str) -> None:
    keys: dict[str, Any] = {"method": method, "simulated_devices": fleets["unlike"], **BUFFERED, "num_server_rounds": 3}
    if METHODS[method].ONE_AGE:
        with pytest.raises(SettingError, match=r"aggregation-mode = 'buffered'.*rounds for"):
            configured(**keys)
        return
    if METHODS[method].PREFERENCES.dynamic_alpha:
        with pytest.raises(SettingError, match=r"dynamic-alpha.*FedDyn's correction"):
            configured(**keys)
        keys["dynamic_alpha"] = "0"
    out = play(**keys)
    assert out.summary["status"] == "finished"
    assert [row["accepted"] for row in out.rows] == [2, 2, 2]
    before = initial(**keys)
    assert sum(not torch.equal(before[name], tensor) for name, tensor in out.state.items()) > len(before) / 2


def test_who_wants_more_than_sums_says_so() -> None:
    for method in METHODS.values():
        assert bool(method.ONE_AGE) == (method.KEEPS_FACTORS or method.PER_COORDINATE)


@pytest.mark.parametrize("selection", SELECTORS)
def test_every_selector(play: Player, fleets: dict[str, str], selection: str) -> None:
    out = play(simulated_devices=fleets["unlike"], selection=selection, **BUFFERED | {"num_server_rounds": 3})
    assert [row["accepted"] for row in out.rows] == [2, 2, 2]


@pytest.mark.parametrize(
    ("key", "keys", "word"),
    [
        ("aggregation-mode", {"simulated_devices": ""}, "wall's clock"),
        ("buffer-size", {"buffer_size": 6}, "1 to 5"),
        ("over-selection", {"over_selection": 1.5}, "waits for nobody"),
        (
            "secure-aggregation",
            {"secure_aggregation": True, "min_cover": 3, "secure_threshold": 3, "buffer_size": 5, **ONE},
            "one state",
        ),
        ("dp-noise", {"dp_noise": 1.0, "dp_clip": 1.0, "guard_rollbacks": 0, **ONE}, "how old"),
        ("guard-mean", {"guard_mean": "median", "guard_faulty": 0}, "ages"),
        ("clustering", {"clustering": "ifca"}, "clusters"),
        ("codec-down", {"codec_down": "qsgd"}, "few hold"),
        ("dynamic-alpha", {"dynamic_alpha": "0.1"}, "FedDyn"),
        ("min-cover", {"min_cover": 3}, "1 to 2"),
        ("buffer-size", {"buffer_size": 0}, "at least 1"),
        ("staleness-exponent", {"staleness_exponent": -1.0}, "0 to 4"),
        ("staleness-exponent", {"staleness_exponent": 40.0}, "0 to 4"),
        ("aggregation-mode", {"aggregation_mode": "eventually"}, "rounds, buffered"),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(
    fleets: dict[str, str], key: str, keys: dict[str, Any], word: str
) -> None:
    with pytest.raises(SettingError) as caught:
        configured(**{"simulated_devices": fleets["unlike"], **BUFFERED, **keys})
    assert caught.value.key == key
    assert word in str(caught.value)


def test_flowers_own_loop_waits_and_is_refused(fleets: dict[str, str]) -> None:
    strategy = configured(simulated_devices=fleets["unlike"], **BUFFERED).strategy()
    nothing: Any = None
    with pytest.raises(SettingError, match="waits for every reply"):
        strategy.configure_train(1, nothing, nothing, nothing)
