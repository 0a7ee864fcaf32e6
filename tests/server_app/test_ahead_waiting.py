"""What has ended is on the disk before a run waits for nodes, or ends; what a server did is no time of its nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from flwr.app import ConfigRecord

from client_app.app import app
from flotilla.local.grid import LocalGrid, contexts
from protocol import record_of
from server_app.folder import checkpoint
from server_app.scoring import evaluate
from strategies.exchange.report import RoundReport
from strategies.nodes.manager import NotEnoughNodes
from strategies.round.runner import Runner
from tests.server_app.test_ahead import IN_TURN, SMALL, Elsewhere, Here, Witness, saved
from tests.support import Outcome, Player, Time, configured, trains
from tests.support import play as play_in

AN_END: list[type[BaseException]] = [NotEnoughNodes, KeyboardInterrupt, SystemExit]


def leaving(base: type[Elsewhere], error: type[BaseException]) -> type[Elsewhere]:
    """A grid on which something happens after the training of round 2."""

    class Leaving(base):  # type: ignore[misc,valid-type]
        def get_node_ids(self) -> Any:
            if any(trains(one, rounds=[2]) for one in self.sent):
                raise error("now")
            return super().get_node_ids()

    return Leaving


@pytest.mark.parametrize("base", [Here, Elsewhere])
@pytest.mark.parametrize("error", AN_END)
def test_a_round_that_has_ended_is_saved_although_the_next_one_cannot_begin(
    tmp_path: Path, base: type[Elsewhere], error: type[BaseException]
) -> None:
    with pytest.raises(error):
        play_in(tmp_path / "run", grid=leaving(base, error), norm="none", **SMALL)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    status = "failed" if error is NotEnoughNodes else "stopped"
    assert (summary["status"], summary["rounds"], summary["model"]["round"], len(rows)) == (status, 2, 2, 2)


@pytest.mark.parametrize("error", AN_END[1:])
def test_a_run_that_is_stopped_stops_although_its_last_round_cannot_be_saved(
    tmp_path: Path, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(strategy: Any, moments: Any, report: Any, **named: Any) -> Any:
        if report.number == 2:
            raise ValueError("no score")
        return evaluate(strategy, moments, report, **named)

    with patch("server_app.run.evaluate", broken), pytest.raises(error):
        play_in(tmp_path / "run", grid=leaving(Elsewhere, error), norm="none", **SMALL)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"


ASKING: list[dict[str, Any]] = [
    {"selection": "pow-d", "fraction_train": 0.5, "norm": "none"},
    {"selection": "divfl", "divfl_refresh": "participants", "fraction_train": 0.5, "method": "fedavg"},
    {"secure_aggregation": True, "method": "fedavg", "tiers": "a:1", "min_cover": 3},
]


@pytest.mark.parametrize("keys", ASKING, ids=["losses", "gradients", "keys"])
def test_where_nodes_are_asked_before_they_train_a_round_is_closed_first(tmp_path: Path, keys: dict[str, Any]) -> None:
    witness = Witness()
    witness.play(tmp_path / "run", **SMALL | {"num_server_rounds": 2} | keys)
    assert witness.order == IN_TURN


@pytest.mark.parametrize("keys", [{"selection": "oort"}, {"selection": "divfl", "divfl_refresh": "updates"}])
def test_a_selector_that_asks_nobody_waits_for_nothing(tmp_path: Path, keys: dict[str, Any]) -> None:
    witness = Witness()
    witness.play(tmp_path / "run", **SMALL | {"num_server_rounds": 2, "fraction_train": 0.5, "norm": "none"} | keys)
    assert witness.order.index("ask 2") < witness.order.index("score 1")


def test_before_it_waits_for_nodes_that_have_left_a_round_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two is gone when round 3 begins, and comes back; then round 4 begins as ever."""
    folder, slept = tmp_path / "run", list[bool]()

    class Away(Elsewhere):
        def get_node_ids(self) -> Any:
            found = list(super().get_node_ids())
            gone = any(trains(one, rounds=[2]) for one in self.sent) and len(slept) < 3
            return found[:1] if gone else found

    def sleep(seconds: float) -> None:
        slept.append((folder / "checkpoints" / "round-000002.json").exists())

    monkeypatch.setattr("strategies.nodes.manager.sleep", sleep)
    keys: dict[str, Any] = {"num_clients": 2, "min_nodes": 2, "node_wait": 600.0, "method": "fedavg", "tiers": "a:1"}
    play_in(folder, grid=Away, **SMALL | keys)
    assert slept == [True] * 3


def test_only_what_is_saved_is_copied(play: Player) -> None:
    """Saved is round 3 of 4, and the last one."""
    before, calls = Runner.checkpoint, list[int]()

    def counted(self: Runner) -> Any:
        calls.append(1)
        return before(self)

    with patch.object(Runner, "checkpoint", counted):
        out = play(grid=Elsewhere, norm="none", **SMALL | {"checkpoint_every": 3})
    assert saved(out) == [3, 4]
    assert len(calls) == 2


def took(out: Outcome) -> dict[str, list[float]]:
    values = checkpoint.load(out.path / "checkpoints", saved(out)[-1]).values
    found: dict[str, list[float]] = values["strategy"]["patience"]["took"]
    return found


def test_a_server_that_scores_for_two_minutes_is_as_impatient_as_ever(play: Player, own_time: Time) -> None:
    """What a tier takes decides how long a dead node is waited for; here all devices are there at the first look."""

    def slow(strategy: Any, moments: Any, report: Any, **named: Any) -> Any:
        own_time.seconds += 120.0
        return evaluate(strategy, moments, report, **named)

    with patch("server_app.run.evaluate", slow):
        out = play(grid=Elsewhere, norm="none", **SMALL)
    assert own_time.seconds >= 120.0 * 4
    assert out.rows[-1]["waiting_seconds"]["train"]["busy"] == 120.0
    assert {len(seconds) for seconds in took(out).values()} == {4}
    assert all(second < 60.0 for seconds in took(out).values() for second in seconds)


@pytest.mark.parametrize("found", [None, 3, "text", [print]])
def test_only_what_can_be_called_is_called(found: object) -> None:
    """And a strategy whose rounds know of nothing else to do is not told of it."""
    config = configured(num_clients=2)
    strategy, told = config.strategy(), list[dict[str, Any]]()
    run_round = strategy.run_round

    def noted(grid: Any, number: int, train: ConfigRecord | None, scored: ConfigRecord | None, **more: Any) -> Any:
        told.append(more)
        return run_round(grid, number, train, scored, **more)

    grid = LocalGrid(app, contexts(config.flat, 2))
    with patch.object(strategy, "run_round", noted):
        strategy.start(grid, record_of(strategy.state), 2, after_round=lambda report: found)
    assert told == [{}, {}]


def test_what_after_round_returns_is_called_once_when_the_next_requests_are_out() -> None:
    config, order = configured(num_clients=2), list[str]()

    class Noted(LocalGrid):
        def push_messages(self, messages: Any) -> Any:
            given = list(messages)
            order.extend(sorted({f"ask {one.metadata.group_id}" for one in given if trains(one)}))
            return super().push_messages(given)

    def after(report: RoundReport) -> Callable[[], None]:
        order.append(f"end {report.number}")
        return lambda: order.append(f"rest {report.number}")

    strategy = config.strategy()
    strategy.start(Noted(app, contexts(config.flat, 2)), record_of(strategy.state), 2, after_round=after)
    assert order == ["ask 1", "end 1", "ask 2", "rest 1", "end 2", "rest 2"]
