"""Rounds that do not wait: on a clock of the test's own, and in runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st

from client_app.app import app
from flotilla.flwr_compat.identity import assume_identity
from flotilla.local.grid import LocalGrid, contexts
from models.errors import SettingError
from protocol import TRAIN, HelloRequest, record_of
from strategies.exchange.messaging import LONGEST_PAUSE, Clock, exchange
from strategies.exchange.wait_times import WaitTimes
from tests.support import Player, Time, address_of, configured, failed, trains

FOUR: dict[str, Any] = {"num_clients": 4}
PULL = 0.002  # seconds that a look takes


class TimedGrid:
    """Replies reach the SuperLink at given times after the sending; None never does."""

    def __init__(self, arrivals: list[float | None]) -> None:
        self.time, self.arrivals = 0.0, arrivals
        self.requests: dict[str, Message] = {}
        self.withdrawn: set[str] = set()
        self.gone: set[str] = set()
        self.clock = Clock(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        assert 0 <= seconds <= LONGEST_PAUSE
        self.time += seconds

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for i, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{i}"
            self.requests[f"m{i}"] = message
        return list(self.requests)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        self.time += PULL
        for name in message_ids:
            at = self.arrivals[int(name[1:])]
            if at is not None and at <= self.time and name not in self.gone:
                self.gone.add(name)
                yield Message(RecordDict({"config": ConfigRecord({"to": name})}), reply_to=self.requests[name])

    def withdraw(self, message_ids: Iterable[str]) -> None:
        self.withdrawn |= set(message_ids)


def play_out(
    grid: TimedGrid, seconds: float, needed: int | None = None
) -> tuple[list[tuple[int, bool, float]], WaitTimes]:
    """What was taken: position, whether there was a reply, when."""
    assume_identity()
    taken: list[tuple[int, bool, float]] = []
    messages = [Message(RecordDict(), dst_node_id=i + 1, message_type="train.part") for i in range(len(grid.arrivals))]
    enough = None if needed is None else lambda: sum(there for _, there, _ in taken) >= needed
    waited = exchange(
        cast(Grid, grid),
        messages,
        lambda i, reply: taken.append((i, reply is not None, grid.time)),
        seconds=seconds,
        clock=grid.clock,
        enough=enough,
    )
    return taken, waited


arrivals = st.lists(st.none() | st.floats(0, 20), max_size=40)


@settings(max_examples=80, deadline=None)
@given(arrivals)
def test_a_reply_is_taken_within_250_ms_of_its_arrival_or_of_its_turn(times: list[float | None]) -> None:
    grid = TimedGrid(times)
    taken, waited = play_out(grid, 10.0)
    assert [i for i, _, _ in taken] == list(range(len(times)))
    before = 0.0
    for (_, there, when), at in zip(taken, times, strict=True):
        assert there == (at is not None and at <= 10.0) or (there and at is not None and at <= when)
        assert when <= max(before, 10.0 if at is None or not there else at) + 0.25
        before = when
    assert waited.max_sleep <= LONGEST_PAUSE
    assert waited.replies == sum(there for _, there, _ in taken)
    assert grid.withdrawn == {f"m{i}" for i, there, _ in taken if not there}


def test_patience_lasts_as_long_as_somebody_answers() -> None:
    """Many nodes take longer than any one of them may; the first one asked answers last, and one never does."""
    times: list[float | None] = [500.0, None, *(5.0 * i for i in range(1, 100))]
    grid, taken = TimedGrid(times), dict[int, bool]()
    assume_identity()
    messages = [Message(RecordDict(), dst_node_id=i + 1, message_type="query.hello") for i in range(len(times))]
    exchange(
        cast(Grid, grid),
        messages,
        lambda i, reply: taken.update({i: reply is not None}),
        seconds=60.0,
        clock=grid.clock,
        enough=lambda: False,
        patient=True,
    )
    assert taken == {i: at is not None for i, at in enumerate(times)}
    assert 560.0 <= grid.time <= 560.5  # 60 s after the last one
    assert all(message.metadata.ttl > 660 for message in messages)


@settings(max_examples=80, deadline=None)
@given(arrivals, st.integers(1, 20))
def test_a_round_that_has_enough_does_not_wait_for_the_rest(times: list[float | None], needed: int) -> None:
    grid = TimedGrid(times)
    taken, waited = play_out(grid, 10.0, needed)
    there = [i for i, reply, _ in taken if reply]
    early = sorted(at for at in times if at is not None and at <= 10.0)
    if len(early) >= needed:
        assert len(there) == needed
        assert grid.time <= early[needed - 1] + 0.25
        assert max(cast(float, times[i]) for i in there) <= early[needed - 1] + 0.25
        assert sorted([*there, *waited.withdrawn]) == list(range(len(times)))
    else:
        assert sorted(i for i, _, _ in taken) == list(range(len(times)))
        assert not waited.withdrawn or len(there) >= needed
    assert grid.withdrawn == {f"m{i}" for i in range(len(times)) if i not in waited.arrived}
    assert waited.max_sleep <= LONGEST_PAUSE


def test_a_dead_first_node_holds_up_nobody_when_others_suffice() -> None:
    """Behind a window full of nodes that never answer."""
    grid = TimedGrid([None] * 40 + [0.1] * 10)
    taken, waited = play_out(grid, 60.0, 10)
    assert [i for i, there, _ in taken if there] == list(range(40, 50))
    assert grid.time < 0.5
    assert waited.withdrawn == list(range(40))


def test_where_the_seconds_went() -> None:
    grid = TimedGrid([2.0, 0.5, 4.0])
    _, waited = play_out(grid, 60.0)
    row = waited.to_row()
    assert (row["messages"], row["replies"]) == (3, 3)
    assert row["first"] == pytest.approx(0.5, abs=0.11)
    assert row["last"] == row["processed"] == pytest.approx(4.0, abs=0.11)
    assert row["max_queued"] == pytest.approx(1.5, abs=0.11)  # the second one waited for the first
    assert 0 < row["max_sleep"] <= LONGEST_PAUSE


def test_messages_do_not_outlive_their_round_by_hours() -> None:
    grid = TimedGrid([0.0])
    play_out(grid, 30.0)
    assert grid.requests["m0"].metadata.ttl == 630.0


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_over_selection_asks_more_and_takes_the_first(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": 10, "fraction_train": 0.5, "over_selection": 1.3, "tiers": "a:1"}
    out = play(**keys)
    for row in out.rows:
        assert len(row["selected"]) == 7  # 1.3 · 5, rounded up
        assert row["accepted"] == 5
        assert row["withdrawn"] == row["selected"][5:]
        assert not row["rejected"]
    plain = play(**keys | {"over_selection": 1.0})
    assert [len(row["selected"]) for row in plain.rows] == [5, 5]
    assert "withdrawn" not in plain.rows[0]


def test_over_selection_makes_up_for_those_who_fail(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, 0) or trains(request, 1) else reply]

    keys: dict[str, Any] = {"num_clients": 6, "fraction_train": 0.5, "over_selection": 2.0, "quorum": 1.0}
    out = play(faults, **keys)
    assert [row["accepted"] for row in out.rows] == [3, 3]
    assert not any(row["abandoned"] for row in out.rows)


@pytest.mark.usefixtures("own_time")
def test_over_selection_ends_at_the_deadline_and_the_quorum_decides(play: Player) -> None:
    """The quorum is a share of those the round needs, not of those who were asked."""

    def faults(request: Message, reply: Message) -> list[Message]:
        return [] if trains(request) and not trains(request, 0) and not trains(request, 1) else [reply]

    keys: dict[str, Any] = {"num_clients": 6, "over_selection": 1.5, "fraction_train": 0.6, "deadline": 0.3}
    row = play(faults, quorum=0.5, num_server_rounds=1, **keys).rows[0]
    assert (row["accepted"], row["abandoned"], len(row["selected"])) == (2, False, 6)
    assert sorted(r["reason"].split(":")[0] for r in row["rejected"]) == ["late"] * 4
    assert row["waiting_seconds"]["train"]["replies"] == 2


@pytest.mark.parametrize("value", [0.5, 11.0])
def test_over_selection_out_of_range(value: float) -> None:
    with pytest.raises(SettingError, match="over-selection"):
        configured(over_selection=value)


def test_the_metrics_say_where_the_seconds_went(play: Player) -> None:
    row = play.once(**FOUR, fraction_evaluate=1.0).rows[-1]
    assert {"train", "statistics", "local evaluation"} <= set(row["waiting_seconds"])
    for waited in row["waiting_seconds"].values():
        assert waited["replies"] == waited["messages"] > 0
        assert 0 <= waited["first"] <= waited["last"] <= waited["processed"] + 1e-9
        assert waited["max_sleep"] <= LONGEST_PAUSE
    assert row["client_seconds"]["outside"] > -1e-3


class Ledger(LocalGrid):
    """Notes every request's settings."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def accept(self, message: Message) -> None:
        self.seen.append((message.metadata.message_type, dict(message.content.config_records.get("config", {}))))
        super().accept(message)


def local_grid(**keys: Any) -> Ledger:
    return Ledger(app, contexts(configured(**keys).flat, configured(**keys).num_clients))


def test_what_start_is_given_reaches_the_requests() -> None:
    keys: dict[str, Any] = {**FOUR, "fraction_evaluate": 1.0}
    config, grid = configured(**keys), local_grid(**keys)
    strategy = config.strategy()
    strategy.start(
        grid,
        record_of(strategy.state),
        1,
        train_config=ConfigRecord({"flavour": "sweet", "nonce": "mine"}),
        evaluate_config=ConfigRecord({"flavour": "sour"}),
    )
    said = {kind: [fields.get("flavour") for seen, fields in grid.seen if seen == kind] for kind, _ in grid.seen}
    assert said[TRAIN] == ["sweet"] * 4
    assert said["evaluate.part"] == ["sour"] * 4
    assert strategy.report.accepted == 4


def test_timeout_is_the_deadline(own_time: Time) -> None:
    config = configured(**FOUR)
    grid = LocalGrid(app, contexts(config.flat, 4), lambda request, reply: [] if trains(request, 0) else [reply])
    strategy = config.strategy()
    strategy.start(grid, record_of(strategy.state), 1, timeout=0.2)
    assert strategy.report.accepted == 3
    assert [r.reason.split(":")[0] for r in strategy.report.rejected] == ["late"]
    assert 0.2 <= own_time.seconds <= 0.2 + LONGEST_PAUSE


def test_a_round_waits_for_the_nodes_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both nodes are gone for a while after round 1, as when their host restarts; no round is lost."""
    config = configured(num_clients=2, node_wait=600.0)
    looks: list[int] = []

    class Leaving(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            looks.append(bool(reports))
            return [] if reports and sum(looks) < 4 else super().get_node_ids()

    monkeypatch.setattr("strategies.nodes.manager.sleep", lambda seconds: None)
    strategy = config.strategy()
    reports: list[bool] = []
    strategy.start(
        Leaving(app, contexts(config.flat, 2)),
        record_of(strategy.state),
        2,
        after_round=lambda report: reports.append(report.abandoned),
    )
    assert reports == [False, False]
    assert sum(looks) >= 4


def test_requests_that_nobody_began_are_taken_back() -> None:
    grid = local_grid(**FOUR)
    content = HelloRequest().to_record()
    messages = [Message(content=content, message_type="query.hello", dst_node_id=address_of(i)) for i in range(4)]
    exchange(grid, messages, lambda i, reply: None, seconds=60.0, enough=lambda: True)
    assert not grid._pending
