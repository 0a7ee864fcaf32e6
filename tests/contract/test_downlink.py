"""`codec-down`: the state goes down as a difference against what a client holds; all train from the same one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from client_app.app import app
from models.errors import SettingError
from protocol import bytes_of
from tests.support import Outcome, Player, configured, trains, without

VICTIM = 2
COMMON: dict[str, Any] = {"codec_small": 0, "codec_share": 0.2, "codec_block": 64, "num_server_rounds": 4}
each = pytest.mark.parametrize("codec", ["float16", "bfloat16", "qsgd", "topk", "eden"])


def keys(down: str, **more: Any) -> dict[str, Any]:
    return COMMON | {"codec_down": down} | more


@each
def test_the_first_round_is_whole_and_the_others_are_not(play: Player, codec: str) -> None:
    out, plain = play.once(**keys(codec)), play.once(**COMMON)
    assert not out.rejected
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    first, *later = (row["bytes_down"] for row in out.rows)
    assert first == plain.rows[0]["bytes_down"]
    assert all(moved < 0.6 * first for moved in later)
    assert out.rows[0]["train_loss"] == plain.rows[0]["train_loss"]
    assert out.hash != plain.hash


@pytest.mark.parametrize("method", ["fedrolex", "fedavg"])
def test_everything_sent_is_no_compression(play: Player, method: str) -> None:
    out = play(**keys("topk", codec_share=1.0, method=method))
    plain = play.once(**COMMON, method=method)
    assert furthest(out, plain) < 1e-4


def test_errors_do_not_add_up(play: Player) -> None:
    """A coarse codec every round stays near the run without one: what was left out comes later."""
    out, plain = play(**keys("qsgd", codec_levels=100, codec_norm="max")), play.once(**COMMON)
    assert 0 < furthest(out, plain) < 0.05


@pytest.mark.slow
def test_the_default_levels_train_as_well_as_none(play: Player) -> None:
    """Levels in blocks of 512 have a variance above 1: as they are, they would carry the clients' state away."""
    same: dict[str, Any] = {
        "codec_small": 100,
        "num_server_rounds": 30,
        "widths": "32, 16",
        "batch_size": 32,
        "momentum": 0.0,
    }
    out, plain = (play(**same | down) for down in ({"codec_down": "qsgd"}, {}))
    losses = [row["train_loss"] for row in out.rows]
    assert all(later < earlier for earlier, later in zip(losses, losses[5:], strict=False))
    assert losses[-1] < 1.1 * plain.rows[-1]["train_loss"]


def test_clients_that_will_be_far_behind_are_told_of() -> None:
    for more, lag in (
        ({}, ""),
        ({"codec_levels": 1}, "about 23 rounds"),
        ({"codec_scale": "tensor"}, "larger tensors"),
    ):
        doubts = configured(codec_down="qsgd", **more).settings.doubts()
        assert [lag in line for line in doubts] == ([True] if lag else [])
        assert configured(codec_down="topk", **more).settings.doubts() == []
    for bits, lag in ((0.52, ""), (0.05, "about 20 rounds")):
        doubts = configured(codec_down="eden", codec_bits=bits).settings.doubts()
        assert [lag in line for line in doubts] == ([True] if lag else [])


def furthest(a: Outcome, b: Outcome) -> float:
    return max(float((a.state[name] - tensor).abs().max()) for name, tensor in b.state.items())


@each
def test_a_resumed_run_is_the_uninterrupted_one(play: Player, codec: str) -> None:
    half = play(**keys(codec, num_server_rounds=2))
    out = play(**keys(codec), resume=str(half.path))
    assert out.hash == play.once(**keys(codec)).hash
    assert [row["bytes_down"] for row in out.rows] == [row["bytes_down"] for row in play.once(**keys(codec)).rows]


def test_who_missed_a_round_gets_the_whole(play: Player) -> None:
    """Nobody who was not there, and nobody whose reply did not count, is sent a difference."""
    whole: dict[int, list[int]] = {}

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            size = bytes_of(request.content.array_records["arrays"])
            whole.setdefault(int(request.metadata.group_id), []).append(size)
        return without(VICTIM, [2])(request, reply)

    out = play(faults, **keys("qsgd"))
    full = max(whole[1])
    assert [sizes.count(full) for sizes in whole.values()] == [6, 0, 1, 0]
    assert [r["node"] for r in out.rejected] == [VICTIM]


def test_a_lost_reply_and_a_device_that_slept_are_the_same(play: Player) -> None:
    def client(message: Message, context: Context) -> Message:
        if trains(message, VICTIM, [2]):
            raise RuntimeError("asleep")
        return app(message, context)

    assert play(without(VICTIM, [2]), **keys("qsgd")).hash == play(client=client, **keys("qsgd")).hash


def test_a_device_that_lost_the_state_says_so_and_gets_it_whole(play: Player) -> None:
    half = play(**keys("qsgd", num_server_rounds=2))
    shutil.rmtree(half.path / "clients" / str(VICTIM))
    out = play(**keys("qsgd"), resume=str(half.path))
    assert [[r["node"] for r in row["rejected"]] for row in out.rows] == [[], [], [VICTIM], []]
    assert "it needs a whole one" in out.rejected[0]["reason"]


@pytest.mark.parametrize("method", ["fiarse", "depthfl", "fedrolex"])
def test_with_both_ways_encoded(play: Player, method: str) -> None:
    """Masks by importance come from the state that clients hold, at both ends."""
    out = play(**keys("qsgd", method=method, codec="ef21", num_server_rounds=3))
    assert not out.rejected
    assert all(tensor.isfinite().all() for tensor in out.state.values())


@pytest.mark.parametrize(
    "wrong", [{"codec_down": "ef21"}, {"codec_down": "zip"}, {"slice_at": "server"}, {"clustering": "ifca"}]
)
def test_what_does_not_go_together(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        configured(**keys("qsgd") | wrong)
    assert caught.value.key == "codec-down"
