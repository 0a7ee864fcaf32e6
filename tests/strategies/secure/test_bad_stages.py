"""Hostile and malformed answers in every stage: rejected, named, and the sum is that of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from client_app.app import app
from client_app.secure.masked import joined, masked
from flotilla.local.grid import Faults, LocalGrid, contexts
from models import layout
from models.randomness import generator
from protocol import REQUEST, VERSION, WireError
from protocol.secure.fixed_point import step
from protocol.secure.messages import KEYS, RECORD, SHARES, UNMASK
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.report import RoundReport
from strategies.exchange.update import ClientUpdate
from strategies.method import Method
from strategies.nodes.patience import Patience
from strategies.round.secure_sums import SecureSums
from strategies.secure.options import SecureOptions
from strategies.settings import Settings
from tests.strategies.secure.devices import CLIP, SPEC, assigned, vectors
from tests.strategies.secure.keys import of_type
from tests.support import Player, Time, address_of, trains

LONG = "x" * 5000
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "a key that is none": (KEYS, {"mask-key": "-----BEGIN PUBLIC KEY-----"}),
    "a key of 5000 characters": (KEYS, {"seal-key": LONG}),
    "half a surrogate pair as key": (KEYS, {"seal-key": "\udc80"}),
    "a number as key": (KEYS, {"mask-key": 3}),
    "code as key": (KEYS, {"mask-key": "__import__('os').system('true')"}),
    "keys of another nonce": (KEYS, {"nonce": "0" * 32}),
    "a field more": (KEYS, {"clip": 1.0}),
    "no envelopes": (SHARES, {"envelopes": []}),
    "a hundred envelopes": (SHARES, {"envelopes": ["x"] * 100}),
    "an envelope of 5000 characters": (SHARES, {"envelopes": [LONG, LONG, ""]}),
    "envelopes of another nonce": (SHARES, {"nonce": "0" * 32}),
    "no shares": (UNMASK, {"shares": []}),
    "shares of another length": (UNMASK, {"shares": ["00", "00", "00"]}),
    "shares that are no digits": (UNMASK, {"shares": ["zz", "zz", "zz"]}),
    "a share of 5000 characters": (UNMASK, {"shares": [LONG] * 3}),
    "shares of another nonce": (UNMASK, {"nonce": "0" * 32}),
}
VICTIM = 2
DISTRUSTED = "secure aggregation: what it encrypts cannot be read"


@dataclass
class Round:
    """Three nodes, of which two are enough, through all stages but training; what was added in the end."""

    faults: Faults | None = None
    _: KW_ONLY
    report: RoundReport = field(default_factory=lambda: RoundReport(number=1))
    added: list[tuple[list[int], Tensor, float]] = field(default_factory=list)
    told: list[TrainAssignment] = field(default_factory=list)
    left: list[list[str]] = field(default_factory=list)

    def run(self) -> Round:
        settings = Settings(secure=SecureOptions(secure_aggregation=True, secure_threshold=2, secure_clip=CLIP))
        context = RoundContext(round_number=1, settings=settings, network=SPEC, layout=layout(SPEC), saved_round=0)
        nodes = contexts({}, 3)
        grid = LocalGrid(app, nodes, faults=self.faults)
        sums = SecureSums(grid, context, method=Method({}), patience=Patience(settings), report=self.report)
        asked = [assigned(i) for i in range(3)]
        for i, one in enumerate(asked):
            one.node.address = address_of(i)
        self.told = sums.prepare(asked)
        for one in self.told:
            assert one.secure is not None
            vector = torch.from_numpy(vectors(3)[int(one.node.id)].astype(np.float32))
            draws = generator(1, 1, one.node.id, "codec")
            session = joined(one.secure, nodes[one.node.address])
            array = masked(one.secure, session, nodes[one.node.address], vector, numbers={}, draws=draws)
            sums.take(one, ClientUpdate(metrics={}, array=array))
        sums.open(self)  # type: ignore[arg-type]  # it is asked for `add_sum` only
        self.left = [list(one.state) for one in nodes.values()]
        return self

    def add_sum(
        self, members: Sequence[tuple[TrainAssignment, ClientUpdate]], difference: Tensor, denominator: float
    ) -> None:
        self.added.append(([int(one.node.id) for one, _ in members], difference, denominator))


def right(members: Sequence[int], difference: Tensor) -> bool:
    wanted = sum(vectors(3)[i] for i in members)
    return bool(np.abs(difference.numpy() - wanted).max() < 3 * step(CLIP) + 1e-5)


def named(found: Round, kind: str) -> list[tuple[object, str]]:
    """Who is named, and why: rejected, or where its reply is in the sum beside what became of that; never both."""
    rejected = [(one.node, one.reason) for one in found.report.rejected]
    without = [(one["node"], one["reason"]) for row in found.report.secure for one in row.get("opened_without", ())]
    assert not (rejected if kind == UNMASK else without)
    assert sum(len(members) for members, _, _ in found.added) + len(rejected) == 3
    return rejected + without


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_in_a_stage_is_no_answer(own_time: Time, case: str) -> None:
    kind, fields = BAD[case]

    def faults(request: Message, reply: Message) -> list[Message]:
        if of_type(kind, request, VICTIM):
            content = ConfigRecord()  # a peer's bytes do not pass through our constructors
            content._data.update(dict(reply.content[RECORD]) | fields)  # type: ignore[attr-defined]
            reply.content[RECORD] = content
        return [reply]

    found = Round(faults).run()
    [(node, reason)] = named(found, kind)
    assert node == VICTIM
    assert reason.startswith(f"secure aggregation, {kind.rpartition('_')[2]}: ")
    assert len(reason) <= 500
    assert reason.isprintable()
    [(members, difference, denominator)] = found.added
    # Whose masked reply came counts, whoever opens the sum.
    assert members == ([0, 1, 2] if kind == UNMASK else [0, 1])
    assert denominator == len(members)
    assert right(members, difference)


@pytest.mark.parametrize("kind", [KEYS, SHARES, UNMASK])
def test_a_node_that_is_silent_in_a_stage(own_time: Time, kind: str) -> None:
    found = Round(lambda request, reply: [] if of_type(kind, request, VICTIM) else [reply]).run()
    assert [node for node, _ in named(found, kind)] == [VICTIM]
    [(members, difference, _)] = found.added
    assert members == ([0, 1, 2] if kind == UNMASK else [0, 1])
    assert right(members, difference)


def test_another_members_key_is_none(own_time: Time) -> None:
    seen: list[Any] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == KEYS:
            record = reply.content[RECORD]
            assert isinstance(record, ConfigRecord)
            seen.append(record["mask-key"])
            record["mask-key"] = seen[0]
        return [reply]

    found = Round(faults).run()
    assert [one.node for one in found.report.rejected] == [1, 2, 0]
    assert "a key that is not its own" in found.report.rejected[0].reason
    assert "no sum of tier a: 1 nodes train its part, 2 are gone, and a sum takes 2" in found.report.rejected[2].reason
    assert found.added == []


def test_all_is_well_without_faults(own_time: Time) -> None:
    found = Round().run()
    assert found.report.rejected == []
    assert found.report.secure == [
        {"tier": "a", "members": 3, "threshold": 2, "senders": 3, "summed": 3, "opened_by": 3}
    ]
    assert found.report.survey_bytes["down"] > 3 * 3 * 600  # keys of all to all, at least
    assert right(*found.added[0][:2])
    assert found.left == [[], [], []]  # no session is left on a device


def test_nobody_opens_the_sum(own_time: Time) -> None:
    found = Round(lambda request, reply: [] if request.metadata.message_type == UNMASK else [reply]).run()
    assert found.added == []
    why = "secure aggregation: there is no sum of tier a: 0 nodes open it, 2 are needed"
    assert [one.node for one in found.report.rejected] == [0, 1, 2]
    assert not [one for one in found.report.rejected if one.reason == why]  # each is named once, for its own silence
    assert found.report.secure == [{"tier": "a", "left_out": "0 nodes open it, 2 are needed"}]


def test_an_envelope_that_nobody_can_read_costs_those_who_get_it() -> None:
    """They refuse to train, as one that is gone does."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if of_type(SHARES, request, VICTIM):
            record = reply.content[RECORD]
            assert isinstance(record, ConfigRecord)
            record["envelopes"] = ["gAAAAA" if one else "" for one in record["envelopes"]]  # type: ignore[union-attr]
        return [reply]

    with pytest.raises(WireError, match=r"what senders \[2\] encrypted cannot be read"):
        Round(faults).run()


def test_wrong_shares_are_done_without_and_named(own_time: Time) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if of_type(UNMASK, request, 0):
            record = reply.content[RECORD]
            assert isinstance(record, ConfigRecord)
            shares = [str(one)[:8] + "f" * len(str(one)[8:]) for one in record["shares"]]  # type: ignore[union-attr]
            record["shares"] = shares
        return [reply]

    found = Round(faults).run()
    assert named(found, UNMASK) == [(0, "secure aggregation: its shares open nothing")]
    [(members, difference, _)] = found.added
    assert members == [0, 1, 2]
    assert right(members, difference)


def test_who_encrypts_nothing_ends_no_run(play: Player) -> None:
    """The others say so, and it is asked less and less often: in rounds 1, 2 and 4."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if of_type(SHARES, request, VICTIM, (1, 2, 3, 4)):
            record = reply.content[RECORD]
            assert isinstance(record, ConfigRecord)
            record["envelopes"] = ["gAAAAA" if one else "" for one in record["envelopes"]]  # type: ignore[union-attr]
        return [reply]

    keys: dict[str, Any] = {"secure_aggregation": True, "secure_threshold": 3, "min_cover": 3, "method": "fedavg"}
    out = play(faults, num_clients=4, tiers="a:1", num_server_rounds=4, **keys)
    assert [row["accepted"] for row in out.rows] == [0, 0, 3, 0]
    assert [VICTIM in row["selected"] for row in out.rows] == [True, True, False, True]
    assert [one["node"] for one in out.rejected if one["reason"] == DISTRUSTED] == [VICTIM] * 3
    others = [one["reason"] for one in out.rejected if one["node"] != VICTIM]
    assert set(others) == {f"secure aggregation: it cannot read what was encrypted by {VICTIM}"}


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "nobody": ({"unreadable": []}, "unreadable must name somebody"),
    "twice": ({"unreadable": [0, 0]}, "unreadable must be positions, ascending"),
    "below": ({"unreadable": [-1]}, "unreadable must be positions, ascending"),
    "beyond any group": ({"unreadable": [32]}, "unreadable must be positions, ascending"),
    "too many": ({"unreadable": list(range(33))}, "33 members: allowed are 32"),
    "a text": ({"unreadable": ["0"]}, "unreadable: expected a whole number"),
    "another nonce": ({"unreadable": [0], "nonce": "0" * 32}, "which is not what the node was asked"),
    "a field more": ({"unreadable": [0], "shares": [""]}, "unknown field 'shares'"),
    "all of them, and nobody else does": ({"unreadable": [0, 1, 2, 3]}, "it cannot read what was encrypted by "),
    "beyond this group": ({"unreadable": [9]}, "it cannot read what was encrypted by nobody in its group"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_who_blames_others_alone_is_left_out_alone(play: Player, case: str) -> None:
    fields, why = REFUSALS[case]

    def faults(request: Message, reply: Message) -> list[Message]:
        if not trains(request, VICTIM):
            return [reply]
        asked = request.content[REQUEST]
        assert isinstance(asked, ConfigRecord)
        said = ConfigRecord()
        said._data.update({"version": VERSION, "nonce": asked["nonce"]} | fields)  # type: ignore[attr-defined]
        return [Message(content=RecordDict({RECORD: said}), reply_to=request)]

    keys: dict[str, Any] = {"secure_aggregation": True, "secure_threshold": 3, "min_cover": 3, "method": "fedavg"}
    out = play(faults, num_clients=4, tiers="a:1", num_server_rounds=1, **keys)
    [left_out] = out.rejected
    assert left_out["node"] == VICTIM
    assert why in left_out["reason"]
    assert out.rows[0]["accepted"] == 3
