"""Whole runs on a virtual fleet and with measured tiers, through the in-process Grid."""

from __future__ import annotations

import json
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from flwr.app import Context, Message

from client_app import profile
from flotilla.local.grid import contexts
from models.errors import SettingError
from protocol import Hello
from protocol.profile import MEMORY_AVAILABLE, NEEDED, STEP
from strategies.nodes.manager import NotEnoughNodes
from tests.support import Outcome, Player, address_of, keys_of, trains, without

# Two steps a round. Of full width they are 3 · 256 · 1,232 multiply-accumulates: 1.2 s on a slow device; of half, 0.6.
FLEET = """
[[device]]
name = "fast"
count = 3
gmacs = 1.0
step-ms = 5.0
jitter = 0.1

[[device]]
name = "slow"
count = 3
gmacs = 0.0008
step-ms = 5.0
jitter = 0.02
"""
KEYS: dict[str, Any] = {"tier_assignment": "measured", "deadline": 1.0, "quorum": 0.1}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("fleets") / "two.toml"
    file.write_text(FLEET)
    return str(file)


def virtual(out: Outcome) -> list[tuple[float, float]]:
    return [(row["virtual_seconds"], row["virtual_elapsed"]) for row in out.rows]


def test_fast_devices_get_more_and_nobody_is_late(play: Player, fleet: str) -> None:
    out = play.once(simulated_devices=fleet, **KEYS)
    assert [row["selected_tiers"] for row in out.rows] == [{"a": 3, "b": 3}] * 2
    assert not out.rejected
    seconds = virtual(out)
    assert all(0 < one <= 1.0 for one, _ in seconds)
    assert seconds[1][1] == seconds[0][1] + seconds[1][0]


def test_the_deadline_is_of_virtual_seconds(play: Player, fleet: str) -> None:
    """Full width takes the slow ones more than a second: they are late, as if they had not replied."""
    out = play(simulated_devices=fleet, deadline=1.0, quorum=0.1, tiers="a:1")
    late = {one["node"] for one in out.rejected}
    assert len(late) == 3
    assert all("virtual seconds" in one["reason"] for one in out.rejected)
    assert [seconds for seconds, _ in virtual(out)] == [1.0, 1.0]
    by_hand = [without(node) for node in sorted(late)]

    def faults(request: Message, reply: Message) -> list[Message]:
        for fault in by_hand:
            if (arriving := fault(request, reply)) != [reply]:
                return arriving
        return [reply]

    assert out.hash == play(faults, tiers="a:1", quorum=0.1).hash


def test_virtual_time_changes_no_result(play: Player, fleet: str) -> None:
    out = play(simulated_devices=fleet)
    assert out.hash == play.once().hash
    assert out.rows[0]["accepted"] == 6


@pytest.mark.parametrize("selection", ["oort", "utility"])
def test_selection_by_seconds_is_the_same_in_every_run(play: Player, fleet: str, selection: str) -> None:
    keys: dict[str, Any] = {
        "simulated_devices": fleet,
        "selection": selection,
        "selection_loss": "last",
        "selection_candidates": 6,
        "fraction_train": 0.5,
        "num_server_rounds": 6,
        "oort_pacer_rounds": 2,
        "learning_rate_schedule": "constant",
        **KEYS,
    }
    whole = play.once(**keys)
    again = play(**keys)
    assert again.hash == whole.hash
    chosen = [row["selected"] for row in whole.rows]
    assert [row["selected"] for row in again.rows] == chosen
    assert len({tuple(sorted(one)) for one in chosen}) > 1
    assert virtual(again) == virtual(whole)
    begun = play(**keys | {"num_server_rounds": 3})
    resumed = play(**keys | {"resume": str(begun.path)})
    assert resumed.hash == whole.hash
    assert virtual(resumed) == virtual(whole)


def test_over_selection_takes_the_first_by_virtual_time(play: Player, fleet: str) -> None:
    """Six are asked for three replies: those of the fast ones, in every run, and the round is as long as theirs."""
    keys: dict[str, Any] = {"simulated_devices": fleet, "fraction_train": 0.5, "over_selection": 2.0, "tiers": "a:1"}
    out = play(**keys)
    assert [len(row["selected"]) for row in out.rows] == [6, 6]
    assert [row["accepted"] for row in out.rows] == [3, 3]
    assert [len(row["withdrawn"]) for row in out.rows] == [3, 3]
    assert out.rows[0]["withdrawn"] == out.rows[1]["withdrawn"]
    assert all(seconds < 0.1 for seconds, _ in virtual(out))
    assert play(**keys).hash == out.hash


def test_a_resumed_run_has_the_same_fleet(play: Player, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)
    begun = play(simulated_devices=str(file))
    file.write_text(FLEET.replace("0.0008", "0.0009"))
    with pytest.raises(SettingError, match="the fleet of the run to resume"):
        play(simulated_devices=str(file), resume=str(begun.path), num_server_rounds=3)


def test_devices_come_and_go(play: Player, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text('[[device]]\nname = "phone"\ngmacs = 1.0\navailable = 0.6\nfailure = 0.2\n')
    out = play(simulated_devices=str(file), num_server_rounds=6, deadline=9.0, quorum=0.0)
    present = [len(row["selected"]) for row in out.rows]
    assert len(set(present)) > 1
    failed = [row for row in out.rows if any("not heard" in one["reason"] for one in row["rejected"])]
    assert failed
    assert all(row["virtual_seconds"] == 9.0 for row in failed)


def test_a_device_that_slows_down_gets_less_and_more_again(play: Player, tmp_path: Path) -> None:
    """Everybody is busy in rounds 3 to 5 only, by a fleet that is told so."""
    file = tmp_path / "fleet.toml"
    file.write_text('[[device]]\nname = "phone"\ngmacs = 0.001\nstep-ms = 5.0\n')
    from strategies.virtual.clock import VirtualClock

    usual = VirtualClock.slowness
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualClock, "slowness", lambda s, node, r: usual(s, node, r) * (3.0 if 3 <= r <= 5 else 1.0))
        out = play(simulated_devices=str(file), num_server_rounds=14, **KEYS | {"tier_patience": 2, "quorum": 0.0})
    tiers = [next(iter(row["selected_tiers"])) for row in out.rows]
    assert tiers[:3] == ["b", "b", "b"]
    assert tiers[3] == "c"  # one miss
    assert tiers[-1] == "b"
    assert tiers.index("b", 3) >= 5 + 4  # 2 · 2 rounds after the load was gone: one miss doubles the wait
    assert [row["abandoned"] for row in out.rows].count(True) == 1


def told(tier: str, others: str, count: int = 4) -> dict[int, Context]:
    nodes = contexts(keys_of(num_clients=count), count)
    for address, context in nodes.items():
        context.node_config["tier"] = tier if address == address_of(0) else others
    return nodes


@pytest.fixture
def slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose steps take 10, 1 and 0.1 seconds."""
    figures = {MEMORY_AVAILABLE: 1e9}
    for name, step in zip("abc", (10.0, 1.0, 0.1), strict=True):
        figures |= {STEP + name: step, NEEDED + name: 1e6}
    monkeypatch.setattr(profile, "measure", lambda request: figures)
    monkeypatch.setattr(profile, "_known", {})


@pytest.mark.usefixtures("slow_device")
def test_a_node_that_tells_auto_is_measured(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": 4, "tier_assignment": "node", "deadline": 20.0}
    asked: list[str] = []

    def look(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "query.hello" and request.metadata.dst_node_id == address_of(0):
            asked.append(json.dumps(dict(Hello.from_record(reply.content).figures)))
        return [reply]

    out = play(look, nodes=told("auto", "c"), **keys)
    assert len(asked) == 1
    assert "step:a" in asked[0]
    assert [row["selected_tiers"] for row in out.rows] == [{"b": 1, "c": 3}] * 2  # 8 steps of 1 s; of 10 s are too many


@pytest.mark.usefixtures("slow_device")
def test_an_error_counts_as_a_miss(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": 4, "tier_assignment": "measured", "deadline": 20.0, "num_server_rounds": 3}

    def faults(request: Message, reply: Message) -> list[Message]:
        return without(0, [1])(request, reply) if trains(request) else [reply]

    out = play(faults, **keys)
    assert [row["selected_tiers"] for row in out.rows] == [{"b": 4}, {"b": 3, "c": 1}, {"b": 3, "c": 1}]


@pytest.mark.usefixtures("slow_device")
def test_a_slow_line_keeps_a_device_in_its_tier(play: Player) -> None:
    """Its own seconds would let it up after round 1; those until its reply is there are more than margin · deadline."""
    keys: dict[str, Any] = {
        "num_clients": 2,
        "tier_assignment": "measured",
        "deadline": 40.0,
        "tier_margin": 0.03,
        "tier_patience": 1,
        "num_server_rounds": 3,
    }

    def slow(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            sleep(1.3)
        return [reply]

    out = play(slow, **keys)
    assert [row["selected_tiers"] for row in out.rows] == [{"c": 2}] * 3
    assert out.rows[-1]["client_seconds"]["outside"] > 1.2


def test_a_run_in_which_nobody_has_a_tier_does_not_begin(play: Player) -> None:
    with pytest.raises(NotEnoughNodes, match=r"none of 4 nodes can take part.*'huge'.*a, b, c, auto"):
        play(nodes=told("huge", "huge"), num_clients=4, tier_assignment="node")
