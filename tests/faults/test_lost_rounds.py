"""Rounds that come to nothing, errors that Flower makes itself, damaged frames, and nodes that change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message

from flotilla.local.grid import LocalGrid
from protocol import DIFFERENCE, TRAIN
from server_app.run import Run
from tests.faults.changes import FOUR, VICTIM, Change, assert_as_without, data
from tests.faults.dying import HALF, NOTHING, Dying
from tests.faults.test_odd_fleets import people, told
from tests.support import Outcome, Player, address_of, configured, failed, trains, without

_REFERENCES: dict[str, Outcome] = {}


def reference_of(play: Player, codec: str) -> Outcome:
    """The run in which the victim's reply of round 1 is lost."""
    if codec not in _REFERENCES:
        keys: dict[str, Any] = {} if codec == "float32" else {"codec": codec, "codec_small": 1}
        _REFERENCES[codec] = play(without(VICTIM, [1]), **keys, **FOUR)
    return _REFERENCES[codec]


def test_a_round_in_which_everybody_fails_changes_nothing(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, rounds=[2]) else reply]

    out = play(faults, **FOUR)
    assert out.hash == play(num_server_rounds=1, **FOUR).hash
    assert [row["abandoned"] for row in out.rows] == [False, True]
    assert sorted(r["node"] for r in out.rows[1]["rejected"]) == [0, 1, 2, 3]
    assert out.rows[1]["coverage"] == {}


@pytest.mark.usefixtures("own_time")
def test_a_silent_round_changes_nothing(play: Player) -> None:
    """Nobody answers, not even with an error: the deadline ends the round."""

    def faults(request: Message, reply: Message) -> list[Message]:
        return [] if trains(request, rounds=[2]) else [reply]

    out = play(faults, deadline=0.3, **FOUR)
    assert out.hash == play(num_server_rounds=1, **FOUR).hash
    assert [r["reason"].split(":")[0] for r in out.rows[1]["rejected"]] == ["late"] * 4


# flwr's codes: unknown (an actor that died), app not loaded, raised, message gone, reply gone, node gone, mod, FAB,
# app killed (out of memory, SIGKILL).
@pytest.mark.parametrize("code", range(9))
def test_every_error_of_flwr_is_no_reply(play: Player, code: int) -> None:
    """Also where it says it comes from node 1, which is the SuperLink, and gives no reason or a coloured traceback."""
    reason = "" if code % 2 else "\x1b[36mray::ClientAppActor\x1b[39m\n  File 1\nActorDiedError: the actor died"

    def faults(request: Message, reply: Message) -> list[Message]:
        if not trains(request, VICTIM, [1]):
            return [reply]
        error = Message(Error(code, reason), reply_to=request)
        error.metadata.__dict__["_src_node_id"] = 1
        return [error]

    assert_as_without(play(faults, **FOUR), reference_of(play, "float32"), f"error {code}")


def ten_gigabytes(content: Any) -> None:
    old = content.array_records["arrays"][DIFFERENCE]
    content["arrays"] = ArrayRecord({DIFFERENCE: Array(old.dtype, (10_000_000_000,), old.stype, old.data)})


def byte(position: int, value: int | None = None) -> Change:
    """One byte of the frame is another one, counted from its end if negative."""

    def change(old: bytes) -> bytes:
        at = position % len(old)
        return old[:at] + bytes([old[at] ^ 1 if value is None else value]) + old[at + 1 :]

    return data(change)


FRAMES: dict[str, Change] = {
    "truncated": data(lambda old: old[: len(old) // 2]),
    "cut in the header": data(lambda old: old[:10]),
    "flipped in the body": byte(-1),
    "flipped in the header": byte(140),
    "more bytes": data(lambda old: old + b"\0"),
    "ten gigabytes": ten_gigabytes,
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("codec", ["qsgd", "ef21"])
def test_a_damaged_frame_is_no_reply(play: Player, codec: str, name: str) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            FRAMES[name](reply.content)
        return [reply]

    keys: dict[str, Any] = {"codec": codec, "codec_small": 1, **FOUR}
    assert_as_without(play(faults, **keys), reference_of(play, codec), "")


def test_a_node_changes_its_tier(play: Player) -> None:
    """Restarted under another address with another tier in its node config."""
    keys: dict[str, Any] = {"num_clients": 4, "tier_assignment": "node", "num_server_rounds": 2}
    trained: list[int] = []

    class Restarted(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            gone = address_of(3) if trained else 5555
            return [node for node in super().get_node_ids() if node != gone]

    def count(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == TRAIN:
            trained.append(request.metadata.dst_node_id)
        return [reply]

    def nodes(tier: str) -> dict[int, Context]:
        return told(people(4, **keys), {0: "a", 1: "b", 2: "c", 3: tier})

    both = nodes("a")
    both[5555] = nodes("c")[address_of(3)]
    out = play(count, grid=Restarted, nodes=both, **keys)
    assert [row["selected_tiers"] for row in out.rows] == [{"a": 2, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 2}]
    assert not out.rejected
    assert out.summary["status"] == "finished"
    # As if the run had stopped in between, and had been resumed on nodes of which one is another one.
    before = play(nodes=nodes("a"), **keys | {"num_server_rounds": 1})
    assert out.hash == play(nodes=nodes("c"), resume=str(before.path), **keys).hash
    assert out.hash not in {play(nodes=nodes(tier), **keys).hash for tier in ("a", "c")}


@pytest.mark.parametrize(
    "sent", [None, pytest.param(NOTHING, marks=pytest.mark.slow), HALF], ids=["training", "trained", "sending"]
)
def test_a_client_is_killed_while_it_trains_or_sends(play: Player, tmp_path: Path, sent: int | None) -> None:
    """SIGKILL to its process; the next client's request is already there, and goes to another one.

    It may be anyone's fault of those that it was trained with: each is tried by itself.
    """
    config = configured(run_dir=str(tmp_path / "run"), **FOUR)
    with patch("server_app.run.write_report"), Dying(config.flat, 4, VICTIM, sent) as grid:
        run = Run(config, grid, write=lambda line: None)
        out = Outcome(run.folder.path, run.execute(), [])
    assert grid.workers == 3
    assert_as_without(out, reference_of(play, "float32"), "ended with -9")
