"""Whose a message is: an id that another node says, ids without end, names of requests that can be worked out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.proto.node_pb2 import NodeInfo

from client_app.app import app
from data import Summary
from flotilla.local.grid import LocalGrid
from protocol import TRAIN, DataReply, Hello
from server_app.task_facts import decide
from tests.faults.changes import FOUR, VICTIM
from tests.faults.test_odd_fleets import people, told
from tests.support import Outcome, Player, address_of, configured, trains, without

LIAR = 500  # an address below all others


class Registered(LocalGrid):
    """A SuperLink at which every node's key is registered by name."""

    since = "1"

    def get_nodes(self) -> Iterable[NodeInfo]:
        names = {LIAR: "node-9"} | {address_of(i): f"node-{i}" for i in range(10)}
        return [
            NodeInfo(node_id=one, name=names[one], public_key=b"%d" % one, last_activated_at=self.since)
            for one in self.get_node_ids()
        ]


def everybody_and_a_liar(node: int | str) -> dict[int, Context]:
    """Four nodes, and one with a valid key that says it is another node; what it would train is another's data."""
    nodes = people(4)
    nodes[LIAR] = people(4, [0])[address_of(0)]
    nodes[LIAR].node_config["says"] = node
    return nodes


def lying(message: Message, context: Context) -> Message:
    """What a node says that has a valid key and somebody else's id."""
    said = context.node_config.get("says")
    if said is None or message.metadata.message_type != "query.hello":
        return app(message, context)
    record = Hello(node=9, examples=300).to_record()
    record.config_records["config"]["node"] = said
    return Message(record, reply_to=message)


def test_a_registered_key_cannot_say_another_nodes_id(play: Player) -> None:
    out = play(client=lying, grid=Registered, nodes=everybody_and_a_liar(VICTIM), **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert {one["node"] for one in out.rejected} == {9}
    assert f"registered as 'node-9', and it says it is {VICTIM}" in out.rejected[0]["reason"]


def test_the_registered_owner_gets_its_id_back(play: Player) -> None:
    """The liar is there alone in round 1; the owner comes in round 2, as in the run in which the liar never was."""

    class Late(Registered):
        def get_node_ids(self) -> Iterable[int]:
            return [one for one in super().get_node_ids() if rounds or one != address_of(VICTIM)]

    rounds: list[int] = []

    def count(request: Message, reply: Message) -> list[Message]:
        rounds.extend([1] if request.metadata.message_type == TRAIN else [])
        return [reply]

    out = play(count, client=lying, grid=Late, nodes=everybody_and_a_liar(VICTIM), **FOUR)
    rounds.clear()
    assert out.hash == play(count, grid=Late, nodes=people(4), **FOUR).hash
    assert [sorted(row["selected"]) for row in out.rows] == [[0, 1, 3], [0, 1, 2, 3]]


def test_data_are_said_by_who_owns_the_id() -> None:
    """The facts of a task are asked of everybody who is there; one answers first, in another node's name."""
    config = configured(
        num_clients=4, dataset="image-folder", partition="own", task_facts="ask", image_size=4, image_channels=1
    )

    def client(message: Message, context: Context) -> Message:
        said = context.node_config.get("says")
        node = int(context.node_config["partition-id"]) if said is None else VICTIM
        counts = {"class": {f"class {node}" if said is None else "made up": 20}, "shape": {"[1, 4, 4]": 20}}
        sums = {"values": (320.0, 320.0 * 100, 320.0 * 12_000)}
        told = Summary(counts=counts, sums=sums, least={"values": 0.0}, greatest={"values": 255.0})
        return Message(DataReply(node=node, summary=told.to_json()).to_record(), reply_to=message)

    grid = Registered(client, everybody_and_a_liar(VICTIM))  # type: ignore[arg-type]
    facts = decide(config.data, config.settings, grid)
    assert facts.classes == tuple(f"class {node}" for node in range(4))


def test_a_number_as_text_is_no_other_id(play: Player) -> None:
    out = play(client=lying, nodes=everybody_and_a_liar("2"), **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert [one["node"] for one in out.rejected] == [None, None]


@pytest.mark.parametrize("said", [77, "kitchen"])
def test_there_are_no_more_ids_than_clients(play: Player, said: int | str) -> None:
    """Without registration, where the four are there first."""

    class Late(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            return [one for one in super().get_node_ids() if rounds or one != LIAR]

    rounds: list[int] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        rounds.extend([1] if request.metadata.message_type == TRAIN else [])
        return [reply]

    out = play(faults, grid=Late, client=lying, nodes=everybody_and_a_liar(said), **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert [len(row["rejected"]) for row in out.rows] == [0, 1]
    assert "num-clients = 4" in out.rejected[0]["reason"]


def test_a_request_has_a_name_that_nobody_works_out(play: Player) -> None:
    """Whoever knows the seed, the round and the node still cannot answer in its place; the run is the same run."""
    seen: list[str] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == TRAIN:
            seen.append(str(request.content.config_records["request"]["nonce"]))
        if trains(request, VICTIM, [1]):
            reply.content.config_records["config"]["nonce"] = f"1-1-{VICTIM}"
        return [reply]

    first = play(faults, **FOUR)
    names = list(seen)
    second = play(faults, **FOUR)
    assert first.hash == second.hash == play(without(VICTIM, [1]), **FOUR).hash
    assert len(set(seen)) == len(seen) == 2 * len(names)
    assert all(len(name) == 32 and int(name, 16).bit_length() <= 128 for name in seen)
    assert "which is not what the node was asked" in first.rejected[0]["reason"]


@pytest.mark.usefixtures("own_time")
def test_a_reply_that_says_it_is_from_another_node_is_none(play: Player) -> None:
    """All of the right request, from a node that was not asked: whoever passed it on, it does not count."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            reply.metadata.__dict__["_src_node_id"] = address_of(0)
        return [reply]

    out = play(faults, deadline=1.0, **FOUR)
    assert out.hash == play(without(VICTIM, [1]), **FOUR).hash
    assert {"node": VICTIM, "reason": "it is not from the node that was asked"} in out.rejected


def test_a_tier_changed_over_a_restart_counts_from_the_next_round(
    play: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 3's SuperNode is restarted between two rounds, with the same key and another tier; nobody saw it away."""
    keys: dict[str, Any] = {"num_clients": 4, "tier_assignment": "node", "num_server_rounds": 3, "tiers": "a:1, b:1/2"}
    tiers = dict.fromkeys(range(4), "a")
    nodes = told(people(4, **keys), tiers)

    def restart(request: Message, reply: Message) -> list[Message]:
        if trains(request, 3, [1]):
            nodes[address_of(3)].node_config["tier"] = "b"
            Registered.since = "2"
        return [reply]

    monkeypatch.setattr(Registered, "since", "1")
    out: Outcome = play(restart, grid=Registered, nodes=nodes, **keys)
    assert [row["selected_tiers"] for row in out.rows] == [{"a": 4}, {"a": 3, "b": 1}, {"a": 3, "b": 1}]
    assert [tier.name for tier in configured(**keys).settings.tiers] == ["a", "b"]
    assert not out.rejected
