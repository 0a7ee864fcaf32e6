"""Who says it: an id belongs to a key, the registered one counts, the owner gets it back, and there are no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from protocol import Hello, id_of_address
from strategies.nodes.back_off import LONGEST, BackOff
from strategies.nodes.claims import Claims
from strategies.nodes.manager import NobodyAnswered, NodeManager
from strategies.nodes.registration import Registration
from tests.strategies.nodes.test_manager import People

HONEST, LIAR, OTHER = 1001, 1000, 1002  # addresses: the liar's is the lowest


class Registered(People):
    """A SuperLink that knows nodes by the names of their keys, and says since when they are there."""

    def __init__(self, say: Callable[[int], Any], names: dict[int, str]) -> None:
        super().__init__(say, names)
        self.names, self.since = names, dict.fromkeys(names, "1")

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=one, name=self.names[one], public_key=b"%d" % one, last_activated_at=self.since[one])
            for one in self.online
        ]


def says(ids: dict[int, int | str], tiers: dict[int, str] | None = None) -> Callable[[int], Any]:
    return lambda address: Hello(node=ids[address], examples=5, tier=(tiers or {}).get(address, "")).to_record()


def listed(fleet: NodeManager, grid: People, number: int) -> dict[int | str, int]:
    return {node.id: node.address for node in fleet.greet(grid, number)[0]}


def test_a_name_is_a_nodes_id_whoever_says_it_first() -> None:
    """The liar has a key and the lower address; it is refused, named, and the honest node does not wait for it."""
    grid = Registered(says({HONEST: 3, LIAR: 3}), {HONEST: "node-3", LIAR: "node-5"})
    fleet = NodeManager(most=4)
    grid.online = [LIAR]
    with pytest.raises(NobodyAnswered, match="registered as 'node-5', and it says it is 3"):
        fleet.greet(grid)
    grid.online = [LIAR, HONEST]
    nodes, rejected = fleet.greet(grid, 2)
    assert [(node.id, node.address) for node in nodes] == [(3, HONEST)]
    assert [one.node for one in rejected] == [5]
    grid.online = [LIAR]  # nor while the owner is away
    assert listed(fleet, grid, 3) == {}


def test_every_address_that_flwr_draws_is_an_id_that_fits_a_message() -> None:
    largest = 2**64 - 1
    own = id_of_address(largest)
    assert Hello.from_record(Hello(node=own, examples=1).to_record()).node == own
    claims = Claims(1)
    claims.claim(own, largest, Registration(name="node-3", key="k"))
    assert claims.holders([largest])[0] == {own: largest}


def test_a_registered_node_counts_before_one_that_is_not() -> None:
    """Also where the other one came first: the names are no closed list as long as some keys have others."""
    grid = Registered(says({HONEST: 3, LIAR: 3}), {HONEST: "node-3", LIAR: "hall"})
    fleet = NodeManager(most=4)
    grid.online = [LIAR]
    assert listed(fleet, grid, 1) == {3: LIAR}
    grid.online = [LIAR, HONEST]
    nodes, rejected = fleet.greet(grid, 2)
    assert [node.address for node in nodes] == [HONEST]
    assert [one.node for one in rejected] == [3]
    assert "is registered as that" in rejected[0].reason


def test_a_key_of_another_name_keeps_its_id_while_it_is_away_and_over_a_restart_of_the_run() -> None:
    grid = Registered(says({HONEST: 3, LIAR: 3}), {HONEST: "kitchen", LIAR: "hall"})
    fleet = NodeManager(most=4)
    grid.online = [HONEST]
    assert listed(fleet, grid, 1) == {3: HONEST}
    resumed = NodeManager(most=4)
    resumed.claims.restore(fleet.claims.checkpoint())
    for manager in (fleet, resumed):
        grid.online = [LIAR]
        nodes, rejected = manager.greet(grid, 2)
        assert not nodes
        assert "belongs to another key" in rejected[0].reason
        grid.online = [LIAR, HONEST]
        assert listed(manager, grid, 3) == {3: HONEST}


def test_the_owner_gets_its_id_back_where_nobody_is_registered() -> None:
    grid, fleet = People(says({HONEST: 3, LIAR: 3, OTHER: 3}), [HONEST]), NodeManager(most=4)
    assert listed(fleet, grid, 1) == {3: HONEST}
    grid.online = [LIAR]  # it may be the same device after a restart
    assert listed(fleet, grid, 2) == {3: LIAR}
    grid.online = [LIAR, OTHER]
    assert listed(fleet, grid, 3) == {3: LIAR}
    grid.online = [LIAR, OTHER, HONEST]
    nodes, rejected = fleet.greet(grid, 4)
    assert [node.address for node in nodes] == [HONEST]
    assert [one.node for one in rejected] == [3, 3]


def test_a_lower_address_wins_nothing() -> None:
    """Of two that come at once, the first word counts."""

    class Slow(People):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            waiting = [one for one in message_ids if one in self._pending]
            return super().pull_messages(sorted(waiting, key=lambda one: -self._pending[one].metadata.dst_node_id))

    fleet = NodeManager(most=4)
    assert listed(fleet, Slow(says({HONEST: 3, LIAR: 3}), [LIAR, HONEST]), 1) == {3: HONEST}


def test_no_more_ids_than_nodes() -> None:
    """A new id every round, from one address or many: the first ones stay, strangers are not even asked."""
    ids: dict[int, int | str] = {1000 + i: i for i in range(40)}
    grid, fleet = People(says(ids), range(1000, 1004)), NodeManager(most=4)
    listed(fleet, grid, 1)
    for number in range(2, 12):
        grid.online = [*range(1000, 1004), 1010 + number]
        nodes, rejected = fleet.greet(grid, number)
        assert [node.id for node in nodes] == [0, 1, 2, 3]
        assert f"hello of node {1010 + number}: not asked, since num-clients = 4" in rejected[0].reason
    grid.online = [1000, 1001, 1030]  # two are away: it is asked, and may be one of them
    nodes, rejected = fleet.greet(grid, 12)
    assert [node.id for node in nodes] == [0, 1]
    assert "num-clients = 4: there are so many others" in rejected[0].reason
    grid.online = [1000, 1001, 1030, 1003]
    assert list(listed(fleet, grid, 13)) == [0, 1, 3]


def test_ids_that_were_taken_stay_taken_when_a_run_goes_on() -> None:
    first, again = Claims(2), Claims(2)
    for node, address in ((7, 1), ("kitchen", 2)):
        first.claim(node, address, Registration())
    again.restore(first.checkpoint())
    again.claim(9, 3, Registration())
    again.claim(7, 4, Registration())
    held, refused = again.holders({3, 4})
    assert held == {7: 4}
    assert [one.id for one in refused] == [9]


@pytest.mark.parametrize("said", ["3", "-3", " 3 ", "+3", "٣", "003"])
def test_no_two_ids_look_alike(said: str) -> None:
    with pytest.raises(ValueError, match="a whole number is no name"):
        Hello(node=said, examples=1)


def test_a_node_that_came_back_says_hello_again() -> None:
    """A SuperNode restarted between two rounds was never seen to be away; its tier counts at once."""
    tiers = {HONEST: "a"}
    grid = Registered(says({HONEST: 3, LIAR: 5}, tiers), {HONEST: "node-3", LIAR: "node-5"})
    fleet = NodeManager(most=4)
    first = fleet.greet(grid, 1)[0]
    assert fleet.greet(grid, 2)[0] is first
    grid.since[HONEST], tiers[HONEST] = "2", "b"
    second = fleet.greet(grid, 3)[0]
    assert [node.hello.tier for node in second] == ["b", ""]
    assert grid.greeted == [LIAR, HONEST, HONEST]


def test_a_node_that_was_seen_to_be_away_says_hello_again() -> None:
    tiers = {HONEST: "a"}
    grid, fleet = People(says({HONEST: 3}, tiers), [HONEST]), NodeManager(most=4)
    fleet.greet(grid, 1)
    grid.online = []
    fleet.greet(grid, 2)
    grid.online, tiers[HONEST] = [HONEST], "b"
    assert [node.hello.tier for node in fleet.greet(grid, 3)[0]] == ["b"]


@pytest.mark.usefixtures("own_time")
def test_who_does_not_say_hello_is_asked_less_and_less_often() -> None:
    class Deaf(People):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return super().pull_messages(
                [one for one in message_ids if self._pending[one].metadata.dst_node_id != LIAR]
            )

        def accept(self, message: Message) -> None:
            asked.append(message.metadata.dst_node_id)
            super().accept(message)

    asked: list[int] = []
    grid, fleet, when = Deaf(says({HONEST: 3}), [HONEST, LIAR]), NodeManager(most=4), []
    for number in range(1, 200):
        asked.clear()
        assert listed(fleet, grid, number) == {3: HONEST}
        when += [number] if LIAR in asked else []
    assert when == [1, 2, 4, 8, 16, 32, 64, 128, 192]
    assert LONGEST == 64


def test_an_answer_ends_the_back_off_and_a_half_answer_does_not() -> None:
    rest = BackOff[int]()
    for number in (1, 2, 4):
        rest.heard(7, number)  # it answers one question of each round, and is silent to another
        rest.missed(7, number)
        rest.heard(7, number)
    assert rest.rounds(7) == 3
    assert next(number for number in range(5, 12) if not rest.rests(7, number)) == 8
    again = BackOff[int]()
    again.restore(rest.checkpoint())
    for one in (rest, again):
        one.heard(7, 8)
        assert one.rounds(7) == 0
        assert not one.rests(7, 9)
        one.missed(7, 9)
        assert not one.rests(7, 10)
