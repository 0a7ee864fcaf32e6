"""Whatever a client replies, the run goes on and ends as if that had never come; the metrics count and name it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from client_app.app import app
from protocol import DIFFERENCE
from tests.faults.changes import (
    FOUR,
    VICTIM,
    Change,
    assert_as_without,
    config,
    data,
    described,
    extra_array,
    flipped,
    metrics,
    objects,
    one,
    other_name,
    ten_gigabytes,
    values,
    with_record,
    without_record,
)
from tests.support import Outcome, Player, failed, trains, without

# name → (what happens to the reply, a word of the reason that the metrics give)
BAD: dict[str, tuple[Change, str]] = {
    "no arrays": (without_record("arrays"), "records"),
    "no metrics": (without_record("metrics"), "records"),
    "no config": (without_record("config"), "records"),
    "additional record": (with_record("more", ConfigRecord({"x": 1})), "records"),
    "record of another kind": (with_record("arrays", MetricRecord({DIFFERENCE: 1.0})), "unreadable"),
    "no array": (with_record("arrays", ArrayRecord()), "array"),
    "additional array": (extra_array, "array"),
    "other array name": (other_name, "array"),
    "too short": (values(lambda flat: flat[:-1]), "shape"),
    "too long": (values(lambda flat: np.append(flat, np.float32(0))), "shape"),
    "transposed": (values(lambda flat: flat[None, :]), "shape"),
    "a number": (values(lambda flat: np.float32(1)), "shape"),
    "nothing in it": (values(lambda flat: flat[:0]), "shape"),
    "float64": (values(lambda flat: flat.astype(np.float64)), "float64"),
    "float16": (values(lambda flat: flat.astype(np.float16)), "float16"),
    "int8": (values(lambda flat: flat.astype(np.int8)), "int8"),
    "big endian": (data(lambda old: old.replace(b"'<f4'", b"'>f4'")), "header"),
    "a lie about the type": (data(lambda old: old.replace(b"'<f4'", b"'<i4'")), "header"),
    "a lie about the shape": (described(shape=(3,)), "shape"),
    "a lie about the type in the record": (described(dtype="int32"), "int32"),
    "another serialisation": (described(stype="pickle"), "pickle"),
    "objects": (objects, "bytes"),
    "ten gigabytes": (ten_gigabytes, "shape"),
    "truncated": (data(lambda old: old[:-40]), "header"),
    "truncated to the header": (data(lambda old: old[:100]), "bytes"),
    "no bytes": (data(lambda old: b""), "bytes"),
    "more bytes": (data(lambda old: old + b"\0" * 4), "header"),
    "flipped in the magic": (flipped(1), "header"),
    "flipped in the version": (flipped(6), ""),
    "flipped in the length": (flipped(8), "header"),
    "flipped in the header": (flipped(30), "header"),
    "NaN": (one(float("nan")), "finite"),
    "infinity": (one(float("inf")), "finite"),
    "minus infinity": (one(float("-inf")), "finite"),
    "norm beyond float32": (one(1e30), "finite"),
    "no examples": (metrics(num_examples=0.0), "num-examples"),
    "minus one example": (metrics(num_examples=-1), "num-examples"),
    "NaN examples": (metrics(num_examples=float("nan")), "num-examples"),
    "1e30 examples": (metrics(num_examples=1e30), "num-examples"),
    "examples missing": (metrics(num_examples=None), "num-examples"),
    "a list of examples": (metrics(num_examples=[10.0, 10.0]), "number"),
    "loss not finite": (metrics(loss=float("inf")), "loss"),
    "nonce of another round": (config(nonce=f"1-2-{VICTIM}"), "answers"),
    "nonce of another node": (config(nonce="1-1-0"), "answers"),
    "nonce missing": (config(nonce=None), "unreadable"),
    "another protocol": (config(version=99), "protocol 99"),
    "version missing": (config(version=None), "unreadable"),
}


@pytest.fixture(scope="module")
def reference(play: Player) -> Outcome:
    """The run in which the victim's reply of round 1 is lost."""
    return play(without(VICTIM, [1]), **FOUR)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_no_reply(play: Player, reference: Outcome, name: str) -> None:
    change, word = BAD[name]

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            change(reply.content)
        return [reply]

    assert_as_without(play(faults, **FOUR), reference, word)


def test_true_is_no_number_of_examples(play: Player, reference: Outcome) -> None:
    """flwr's records refuse it where they are made, not where they are read."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            reply.content.metric_records["metrics"]._data["num-examples"] = True  # type: ignore[attr-defined]
        return [reply]

    assert_as_without(play(faults, **FOUR), reference, "number")


def test_a_client_that_raises(play: Player, reference: Outcome) -> None:
    def client(message: Message, context: Any) -> Message:
        if trains(message, VICTIM, [1]):
            raise RuntimeError("line one\nthe cat pulled the plug")
        return app(message, context)

    assert_as_without(play(client=client, **FOUR), reference, "the cat pulled the plug")


def test_an_error_from_the_superlink(play: Player, reference: Outcome) -> None:
    """Errors that flwr makes itself come from node 1, whoever was asked: the request says who it was."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if not trains(request, VICTIM, [1]):
            return [reply]
        error = failed(request, "node unavailable")
        error.metadata.__dict__["_src_node_id"] = 1
        return [error]

    assert_as_without(play(faults, **FOUR), reference, "node unavailable")


@pytest.mark.usefixtures("own_time")
def test_a_reply_after_the_deadline(play: Player, reference: Outcome) -> None:
    """Comes with the replies of the next round, and is too late."""
    late: list[Message] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            late.append(reply)
            return []
        if late and trains(request, rounds=[2]):
            return [reply, late.pop()]
        return [reply]

    out = play(faults, deadline=1.0, **FOUR)
    assert out.hash == reference.hash
    assert [[r["reason"].split(":")[0] for r in row["rejected"]] for row in out.rows] == [["late"], ["unknown"]]
    assert out.rows[0]["rejected"][0]["node"] == VICTIM
