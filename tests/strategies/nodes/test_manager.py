from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from flotilla.local.grid import LocalGrid
from protocol import VERSION, Hello
from strategies.exchange.node import in_order
from strategies.nodes.manager import NodeManager, NotEnoughNodes
from tests.support import Time, context_of

Say = Callable[[int], RecordDict]


class People(LocalGrid):
    """Nodes that only say hello; `online` are the flwr ids of those that are there."""

    def __init__(self, say: Say, online: Iterable[int]) -> None:
        self.online = list(online)
        self.greeted: list[int] = []

        def client(message: Message, context: Context) -> Message:
            self.greeted.append(context.node_id)
            return Message(say(context.node_id), reply_to=message)

        def context(node: int) -> Context:
            return context_of(node)

        super().__init__(cast(Any, client), {node: context(node) for node in range(1000, 4000)})

    def get_node_ids(self) -> Iterable[int]:
        return list(self.online)


def by_address(address: int) -> RecordDict:
    """The id is not the address, and their orders differ."""
    return Hello(node=10_000 - address, examples=5 + address % 3, labels=(1, 2), tier="a").to_record()


def test_whether_it_would_wait_is_known_before() -> None:
    """For somebody new, for who is missing; not for who has refused and rests, nor for a fleet that is all there."""

    def say(address: int) -> RecordDict:
        return by_address(address) if address != 1002 else RecordDict()

    manager, people = NodeManager(), People(say, [1000, 1001])
    assert manager.waits(people, 1, 2)
    manager.greet(people, 1)
    assert not manager.waits(people, 2, 2)
    assert manager.waits(people, 2, 3)
    people.online += [1002]
    waits = []
    for number in range(2, 10):
        waits.append(manager.waits(people, number, 2))
        before = len(people.greeted)
        manager.greet(people, number)
        assert waits[-1] == (len(people.greeted) > before)
    assert waits == [True, True, False, True, False, False, False, True]


def test_nodes_come_in_order_of_their_ids_whoever_said_hello_first() -> None:
    addresses = [1000 + 7 * i % 2000 for i in range(200)]
    seen = []
    for online in (addresses, addresses[::-1]):
        nodes, rejected = NodeManager().greet(People(by_address, online))
        seen.append([(node.id, node.address) for node in nodes])
        assert not rejected
    assert seen[0] == seen[1] == sorted(seen[0])


def test_hello_is_said_once() -> None:
    grid, fleet = People(by_address, [1000, 1001]), NodeManager()
    fleet.greet(grid)
    grid.online.append(1002)
    nodes, _ = fleet.greet(grid)
    assert sorted(grid.greeted) == [1000, 1001, 1002]
    assert len(nodes) == 3


def test_who_is_away_is_not_listed_and_comes_back_under_its_id() -> None:
    grid, fleet = People(by_address, [1000, 1001]), NodeManager()
    fleet.greet(grid)
    grid.online = [1000]
    assert [node.address for node in fleet.greet(grid)[0]] == [1000]
    grid.online = [1000, 2001]  # 1001 comes back as 2001, its id is the same
    grid2 = People(lambda address: by_address(1001 if address == 2001 else address), [1000, 2001])
    nodes, rejected = fleet.greet(grid2)
    assert [(node.id, node.address) for node in nodes] == [(8999, 2001), (9000, 1000)]
    assert not rejected


def test_two_nodes_of_one_id() -> None:
    fleet = NodeManager()
    nodes, rejected = fleet.greet(People(lambda _: Hello(node="kitchen", examples=5).to_record(), [1000, 1001]))
    assert [node.id for node in nodes] == ["kitchen"]
    assert [r.node for r in rejected] == ["kitchen"]
    assert "two nodes" in rejected[0].reason


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.config_records["config"].pop("node"),
        lambda r: r.config_records["config"].update(node=1.5),
        lambda r: r.config_records["config"].update(node=True),
        lambda r: r.config_records["config"].update(labels=3),
        lambda r: r.config_records["config"].update(labels=["a"]),
        lambda r: r.config_records["config"].update(version=7),
        lambda r: r.config_records["config"].pop("version"),
        lambda r: r.config_records["config"].update(tier=1),
        lambda r: r.config_records["config"].update(examples=0),
        lambda r: r.config_records["config"].update(examples=-4),
        lambda r: r.config_records["config"].update(examples=1.5),
        lambda r: r.config_records["config"].pop("examples"),
        lambda r: r.config_records["config"].update(colour="red"),
        lambda r: r.config_records["config"].update(figures='{"step:a": -1.0}'),
        lambda r: r.config_records["config"].update(figures='{"step:a": NaN}'),
        lambda r: r.pop("config"),
    ],
)
def test_a_bad_hello_is_left_out_and_named(change: Callable[[RecordDict], object]) -> None:
    def say(address: int) -> RecordDict:
        record = by_address(address)
        if address == 1001:
            change(record)
        return record

    nodes, rejected = NodeManager().greet(People(say, [1000, 1001, 1002]))
    assert [node.address for node in nodes] == [1002, 1000]
    assert len(rejected) == 1
    assert "1001" in rejected[0].reason


def test_labels_come_back_as_they_went() -> None:
    hello = Hello(node="n", examples=3, labels=(0, 4, 9), tier="b")
    assert Hello.from_record(hello.to_record()) == hello


def test_numbers_come_before_names() -> None:
    ids: list[int | str] = ["b", 10, "a", 2, -1]
    assert sorted(ids, key=in_order) == [-1, 2, 10, "a", "b"]


def test_the_list_is_the_same_until_somebody_comes_or_goes() -> None:
    grid, fleet = People(by_address, [1000, 1001]), NodeManager()
    nodes, _ = fleet.greet(grid)
    assert fleet.greet(grid)[0] is nodes
    for online in ([1000], [1000, 1002], [1001, 1002], []):
        grid.online = online
        assert sorted(node.address for node in fleet.greet(grid)[0]) == online
    grid.online = [1000, 1001]
    assert fleet.greet(grid)[0] == nodes


class Coming:
    """A grid where nodes appear one call after the other."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def get_node_ids(self) -> list[int]:
        return list(range(self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]))


def test_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr("strategies.nodes.manager.monotonic", time.clock.now)
    monkeypatch.setattr("strategies.nodes.manager.sleep", time.sleep)

    def wait(counts: list[int], expected: int, least: int, seconds: float) -> int:
        return NodeManager().wait(cast(Grid, Coming(counts)), expected, least, seconds)

    assert wait([5], 5, 2, 10) == 5
    assert wait([0, 1, 3, 5], 5, 2, 10) == 5
    assert wait([3], 5, 2, 0.2) == 3
    with pytest.raises(NotEnoughNodes, match=r"1 nodes are online, the run needs 2.*num-supernodes=5"):
        wait([1], 5, 2, 0.2)


def test_a_greeting_waits_for_nodes_that_have_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    time, grid, fleet = Time(), People(by_address, [1000, 1001]), NodeManager()
    monkeypatch.setattr("strategies.nodes.manager.monotonic", time.clock.now)

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if time.clock.now() > back:
            grid.online = [1000, 1001]

    monkeypatch.setattr("strategies.nodes.manager.sleep", sleep)
    back = time.clock.now() + 5
    assert len(fleet.greet(grid, 1, least=2, seconds=10)[0]) == 2
    grid.online = [1000]
    assert len(fleet.greet(grid, 2, least=2, seconds=10)[0]) == 2  # it came back in time
    assert time.clock.now() > back
    grid.online, back = [1000], time.clock.now() + 50
    assert len(fleet.greet(grid, 3, least=2, seconds=10)[0]) == 1
    assert "this round goes on without more" in caplog.text


@pytest.mark.parametrize(("simulated", "answered"), [(True, 2), (False, 0)])
def test_the_processes_of_a_simulation_are_waited_for_while_they_start(
    own_time: Time, simulated: bool, answered: int
) -> None:
    """They import PyTorch, prove themselves to a cluster and read the data before their first answer: minutes."""

    class Starting(People):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return super().pull_messages(message_ids) if own_time.seconds > 400 else []

    grid = Starting(by_address, [1000, 1001])
    grid.simulated = simulated
    nodes, silent = NodeManager().greet(grid, 1)
    assert len(nodes) == answered
    assert len(silent) == 2 - answered


def test_codecs_come_back_as_they_went_and_need_not_be_said() -> None:
    hello = Hello(node="n", examples=3, codecs=("float32", "qsgd"))
    assert Hello.from_record(hello.to_record()) == hello
    silent = RecordDict({"config": ConfigRecord({"version": VERSION, "node": "n", "examples": 3})})
    assert Hello.from_record(silent) == Hello(node="n", examples=3)  # as a client of another make
