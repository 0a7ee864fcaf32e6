"""A run that was good stays good: what is bad, abandoned or another run's takes no good checkpoint's place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from benchmarks.experiments.lies import times
from models.errors import SettingError
from protocol import NodeId
from server_app.folder import checkpoint
from server_app.loss_watch import GoBack, LossExploded, LossWatch
from tests.support import Player, failed, trains, without
from tests.support import play as play_in

VICTIM = 2
TWO: dict[str, Any] = {"num_clients": 2, "method": "fedavg", "tiers": "a:1", "min_nodes": 1, "evaluate_every": 1}


def rounds(path: Path) -> list[int]:
    """Rounds that have a checkpoint."""
    return sorted(int(file.stem.partition("-")[2]) for file in (path / "checkpoints").glob("*.json"))


def far_off(*numbers: int, node: int = 1) -> Any:
    """A node whose difference is a million times too long in some rounds, which nothing bounds in a run of two."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, node, numbers):
            times(1e6)(reply.content)
        return [reply]

    return faults


def test_abandoned_rounds_take_no_checkpoints_place(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, rounds=[3, 4, 5, 6]) else reply]

    out = play(faults, num_server_rounds=6, **TWO)
    assert [row["abandoned"] for row in out.rows] == [False] * 2 + [True] * 4
    assert set(rounds(out.path)) >= {1, 2, 6}


def test_bad_rounds_take_no_checkpoints_place(play: Player) -> None:
    """Guard off, and nothing goes back: the last good round and the best are still there."""
    out = play(far_off(3, 4, 5), num_server_rounds=5, guard=False, guard_rollbacks=0, **TWO)
    accuracies = [row["accuracy"] for row in out.rows]
    best = 1 + accuracies.index(max(accuracies))
    assert {2, best, 4, 5} == set(rounds(out.path))


def test_a_run_whose_loss_explodes_goes_back(play: Player, caplog: pytest.LogCaptureFixture) -> None:
    """And is from then on the run without whoever did it."""
    out = play(far_off(3), num_server_rounds=4, **TWO)
    assert out.summary["status"] == "finished"
    assert [row["round"] for row in out.rows] == [1, 2, 3, 4]
    ((event,),) = [row["went_back"] for row in out.rows if "went_back" in row]
    assert (event["round"], event["without"]) == (3, 1)
    assert event["loss"] > 100
    assert out.hash == play(without(1, [3, 4]), num_server_rounds=4, **TWO).hash
    assert [one["reason"] for one in out.rejected] == ["left out since the loss exploded in round 3"] * 2
    assert any("round 3: the loss exploded" in line and "without node 1" in line for line in caplog.messages)


def test_a_run_that_went_back_can_be_resumed(play: Player) -> None:
    whole = play(far_off(3), num_server_rounds=5, **TWO)
    half = play(far_off(3), num_server_rounds=4, **TWO)
    assert play(resume=str(half.path), num_server_rounds=5, **TWO).hash == whole.hash


@pytest.mark.parametrize("killed", [1, 2, 3, 4])
def test_a_resumed_run_leaves_out_whom_the_uninterrupted_one_does(killed: int) -> None:
    """Who came furthest is gathered from one evaluation to the next, and here every fourth round is evaluated."""
    seen: dict[int, dict[NodeId, float]]
    seen = {1: {1: 1.0, "hub": 1.1}, 2: {1: 50.0, "hub": 1.2}, 3: {1: 1.0, "hub": 1.5}, 4: {1: 1.0, "hub": 1.2}}
    watch = LossWatch(guessing=2.3, most=3, good=2.0)
    for number, reaches in seen.items():
        if number == killed:
            saved = json.loads(json.dumps(watch.to_json()))
            watch = LossWatch(guessing=2.3, most=3)
            watch.restore(saved, keep=False)
        if number < 4:
            watch.see(number, {}, reaches)
    with pytest.raises(GoBack) as gone:
        watch.see(4, {"loss": 1e6}, seen[4])
    assert gone.value.row == {"round": 4, "loss": 1e6, "without": 1}


def test_a_loss_that_explodes_again_and_again_ends_the_run(play: Player) -> None:
    """Whoever is left: three go one after the other, and then nobody's reply is to blame."""
    keys: dict[str, Any] = {**TWO, "num_clients": 4, "guard": False, "quorum": 0.0}
    folder = play.new_folder()

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, rounds=[2]):
            times(1e6)(reply.content)
        return [reply]

    with pytest.raises(LossExploded, match="guard-rollbacks"):
        play_in(folder, faults, num_server_rounds=3, guard_rollbacks=2, **keys)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["model"]["round"] == 1  # the last good one
    assert "after going back 2 times" in summary["error"]


def test_another_runs_checkpoint_is_refused_by_name(play: Player) -> None:
    """Of equal shapes, and newer."""
    mine, other = play(num_server_rounds=1, **TWO), play(num_server_rounds=2, seed=5, **TWO)
    ids = [json.loads((one.path / "config.json").read_text())["run"] for one in (mine, other)]
    assert ids[0] != ids[1]
    assert checkpoint.newest(other.path / "checkpoints", run=ids[1]) is not None
    for file in (other.path / "checkpoints").iterdir():
        if "000002" in file.name:
            shutil.copy(file, mine.path / "checkpoints" / file.name)
    with pytest.raises(SettingError, match=f"round-000002.json is of run {ids[1]}"):
        play_in(mine.path, resume=str(mine.path), num_server_rounds=2, **TWO)
    assert checkpoint.newest(mine.path / "checkpoints", run=ids[0]).round_number == 1  # type: ignore[union-attr]
