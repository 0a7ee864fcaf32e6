"""A round that is scored and saved while the next one's devices train is the same round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import Message

from benchmarks.experiments.lies import times
from flotilla.local.grid import LocalGrid
from protocol import TRAIN
from server_app.folder import checkpoint
from server_app.scoring import evaluate
from tests.faults.changes import metrics
from tests.support import Outcome, Player, Stopped, run_of, trains, without
from tests.support import play as play_in

ROUNDS = 4
SMALL: dict[str, Any] = {"num_clients": 4, "num_server_rounds": ROUNDS, "evaluate_every": 1}
TIMES = ("seconds", "client_seconds", "waiting_seconds", "resident_bytes")


class Elsewhere(LocalGrid):
    """Devices on other machines: they train as soon as they are asked, nobody can stop them, and replies wait."""

    computes_elsewhere = True
    withdraw = None  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sent: list[Message] = []
        self._replies: dict[str, list[Message]] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = list(super().push_messages(messages))
        for name in ids:
            request = self._pending[name]
            if request.metadata.message_type == TRAIN:
                self.sent.append(request)
            self._replies[name] = list(super().pull_messages([name]))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [reply for name in message_ids for reply in self._replies.pop(name, [])]


class Here(Elsewhere):
    """The same, on this machine: every round is closed before the next one begins."""

    computes_elsewhere = False


def both(player: Player, faults: Callable[[Message, Message], list[Message]] | None = None, **keys: Any) -> Outcome:
    """The run with rounds closed later, which is the one without in all that it leaves."""
    later, here = (player(faults, grid=grid, **SMALL | keys) for grid in (Elsewhere, Here))
    assert later.hash == here.hash
    assert [plain(row) for row in later.rows] == [plain(row) for row in here.rows]
    numbers = saved(later)
    assert numbers == saved(here)
    for number in numbers:
        found, wanted = (checkpoint.load(one.path / "checkpoints", number) for one in (later, here))
        assert found.tensors.keys() == wanted.tensors.keys()
        for name, tensor in wanted.tensors.items():
            if name != "selection/nodes/seconds":
                assert torch.equal(torch.nan_to_num(found.tensors[name]), torch.nan_to_num(tensor)), (number, name)
        assert timeless(found.values) == timeless(wanted.values), number
    return later


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


def timeless(values: dict[str, Any]) -> str:
    """A checkpoint's values without what the clock said, and what is drawn anew in every run."""
    kept = {**values, "rows": [plain(row) for row in values["rows"]], "strategy": dict(values["strategy"])}
    patience = kept["strategy"]["patience"]
    took = {tier: len(seconds) for tier, seconds in patience["took"].items()}
    kept["strategy"]["patience"] = {**patience, "took": took, "beside": None}  # of the replies that it came to look for
    return json.dumps(kept, sort_keys=True)


def saved(out: Outcome) -> list[int]:
    return sorted(int(file.stem.partition("-")[2]) for file in (out.path / "checkpoints").glob("*.json"))


@pytest.mark.parametrize(
    "keys",
    [
        {"norm": "none"},
        {"evaluate_every": 2, "checkpoint_every": 2},
        {"method": "fedrolex", "codec": "ef21", "codec_share": 0.1, "fraction_train": 0.6},
        {"method": "fedavg", "codec_down": "qsgd"},
        {"method": "fedecover", "tier_assignment": "dynamic", "fraction_train": 0.6},
        {"method": "splitmix"},
        {"method": "fedavgm"},
        {"method": "fiarse"},
        {"dynamic_alpha": "0.1", "fraction_evaluate": 1.0},
        {"selection": "pow-d", "fraction_train": 0.5, "norm": "none"},
        {"selection": "divfl", "divfl_refresh": "participants", "fraction_train": 0.5, "method": "fedavg"},
        {"clustering": "ifca", "fraction_evaluate": 1.0},
        {"clustering": "cfl", "method": "fedavg", "cfl_mean_norm": 9.0, "cfl_gamma": 0.0, "cfl_first_round": 1},
        {"guard_norm": "both"},
        {"secure_aggregation": True, "method": "fedavg", "tiers": "a:1", "min_cover": 3},
    ],
    ids=lambda keys: " ".join(map(str, keys.values())),
)
def test_it_is_the_same_run(play: Player, keys: dict[str, Any]) -> None:
    both(play, **keys)


def test_what_a_selector_notes_while_it_plans_is_not_in_the_checkpoint(play: Player) -> None:
    """Oort goes by seconds, so here all of them say the same."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            metrics(seconds=1.0)(reply.content)
        return [reply]

    both(play, faults, selection="oort", fraction_train=0.5)


class Witness:
    """Notes, in their order, requests to train, scores and checkpoints."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        seen = self.seen

        class Noted(Elsewhere):
            def push_messages(self, messages: Iterable[Message]) -> list[str]:
                given = list(messages)
                seen.extend(sorted({f"ask {one.metadata.group_id}" for one in given if trains(one)}))
                return super().push_messages(given)

            def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
                found = super().pull_messages(message_ids)
                seen.extend(f"take {one.metadata.group_id}" for one in found if one.metadata.message_type == TRAIN)
                return found

        self.grid = Noted

    def play(self, folder: Path, **keys: Any) -> Outcome:
        save = checkpoint.save

        def noted(strategy: Any, moments: Any, report: Any, **named: Any) -> Any:
            self.seen.append(f"score {report.number}")
            return evaluate(strategy, moments, report, **named)

        def noted_save(path: Path, number: int, *more: Any, **named: Any) -> Path:
            self.seen.append(f"save {number}")
            return save(path, number, *more, **named)

        with patch("server_app.run.evaluate", noted), patch.object(checkpoint, "save", noted_save):
            return play_in(folder, grid=self.grid, **keys)

    @property
    def order(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(self.seen))


AHEAD = ["ask 1", "take 1", "ask 2", "score 1", "save 1", "take 2", "ask 3", "score 2", "save 2", "take 3"]
IN_TURN = ["ask 1", "take 1", "score 1", "save 1", "ask 2", "take 2", "score 2", "save 2"]


@pytest.mark.parametrize("norm", ["none", "static-batch"])
def test_requests_go_out_before_the_round_is_scored(tmp_path: Path, norm: str) -> None:
    witness = Witness()
    witness.play(tmp_path / "run", norm=norm, **SMALL | {"num_server_rounds": 3})
    assert witness.order == [*AHEAD, "score 3", "save 3"]


@pytest.mark.parametrize("keys", [{"target": "0.99"}, {"patience": 9}, {"over_selection": 1.5, "fraction_train": 0.5}])
def test_where_the_score_may_decide_a_round_is_closed_first(tmp_path: Path, keys: dict[str, Any]) -> None:
    witness = Witness()
    witness.play(tmp_path / "run", **SMALL | {"num_server_rounds": 2} | keys)
    assert witness.order == IN_TURN


def test_a_target_that_is_reached_ends_the_run_and_nobody_is_asked_any_more(play: Player) -> None:
    out = both(play, target="0.0")
    assert [row["round"] for row in out.rows] == [1]
    assert out.summary["ended"].startswith("accuracy")


def far_off(request: Message, reply: Message) -> list[Message]:
    """Node 1's difference is a million times too long in round 3, which nothing bounds in a run of two."""
    if trains(request, 1, [3]):
        times(1e6)(reply.content)
    return [reply]


TWO: dict[str, Any] = {"num_clients": 2, "method": "fedavg", "tiers": "a:1", "min_nodes": 1, "num_server_rounds": 5}


@pytest.mark.parametrize("keys", [{}, {"dynamic_alpha": "0.1"}], ids=["plain", "feddyn"])
def test_a_run_goes_back_although_its_devices_train_already(play: Player, keys: dict[str, Any]) -> None:
    """Round 4 was under way, is dropped, and what devices then kept is not read in the one that takes its place."""
    out = both(play, far_off, **TWO | keys)
    ((event,),) = [row["went_back"] for row in out.rows if "went_back" in row]
    assert (event["round"], event["without"]) == (3, 1)
    assert {one["reason"] for one in out.rejected} == {"left out since the loss exploded in round 3"}
    assert [row["round"] for row in out.rows] == [1, 2, 3, 4, 5]
    assert out.hash == play(without(1, [3, 4, 5]), **SMALL | TWO | keys).hash


REMEMBERING = [{"method": "fedavg", "dynamic_alpha": "0.1"}, {"codec": "topk", "codec_share": 0.1}, {}]


@pytest.mark.parametrize("keys", REMEMBERING, ids=["feddyn", "topk", "plain"])
@pytest.mark.parametrize("where", ["before the score", "before the checkpoint", "after it"])
def test_killed_while_devices_train_and_resumed(play: Player, keys: dict[str, Any], where: str) -> None:
    """Round 3 has been asked for, and round 2 may be on the disk or not."""
    folder, save = play.new_folder(), checkpoint.save

    def scored(strategy: Any, moments: Any, report: Any, **named: Any) -> Any:
        if report.number == 2 and where == "before the score":
            raise Stopped
        return evaluate(strategy, moments, report, **named)

    def written(path: Path, number: int, *more: Any, **named: Any) -> Path:
        if number == 2 and where == "before the checkpoint":
            raise Stopped
        found = save(path, number, *more, **named)
        if number == 2:
            raise Stopped
        return found

    asked: dict[str, Any] = SMALL | keys
    with (
        patch("server_app.run.evaluate", scored),
        patch.object(checkpoint, "save", written),
        pytest.raises(Stopped),
    ):
        play_in(folder, grid=Elsewhere, **asked)
    manifest = folder / "checkpoints" / "round-000002.json"
    assert manifest.exists() == (where == "after it")
    assert play(grid=Elsewhere, resume=str(folder), **asked).hash == play(grid=Here, **asked).hash


def test_requests_name_only_rounds_that_are_on_the_disk(tmp_path: Path) -> None:
    folder, named = tmp_path / "run", []

    class Checked(Elsewhere):
        def accept(self, message: Message) -> None:
            if trains(message):
                told = int(message.content.config_records["request"].get("checkpoint", 0))  # type: ignore[arg-type]
                named.append((int(message.metadata.group_id), told))
                assert not told or (folder / "checkpoints" / f"round-{told:06d}.json").exists()
            super().accept(message)

    play_in(folder, grid=Checked, **SMALL)
    assert list(dict.fromkeys(named)) == [(1, 0), (2, 0), (3, 1), (4, 2)]


def test_scores_have_the_threads_of_others_and_count_as_their_own_time(tmp_path: Path) -> None:
    """While replies are folded there is one thread; sums of a score depend on how many it has."""
    seen = []

    def slow(strategy: Any, moments: Any, report: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        found = evaluate(strategy, moments, report, **named)
        report.seconds["evaluate"] += 100
        return found

    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with patch("server_app.run.evaluate", slow), patch("server_app.run.write_report"):
            run_of(tmp_path / "run", grid=Elsewhere, norm="none", **SMALL).execute()
    finally:
        torch.set_num_threads(usual)
    rows = Outcome(tmp_path / "run", {}, []).rows
    assert seen == [2] * ROUNDS
    assert all(row["seconds"]["train"] < 100 < row["seconds"]["evaluate"] for row in rows)
    assert all(row["waiting_seconds"]["train"]["busy"] > 0 for row in rows)
