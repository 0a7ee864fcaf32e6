"""Whatever a client replies, the run goes on and ends as if that had never come; the metrics count and name it."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client_app.app import app
from protocol import DIFFERENCE, WireError, decode
from strategies.flower_adapter import NothingLearnt
from tests.support import Outcome, Player, address_of, failed, trains, without

VICTIM = 2
FOUR: dict[str, Any] = {"num_clients": 4}

Change = Callable[[RecordDict], None]


def difference(content: RecordDict) -> np.ndarray[Any, Any]:
    return content.array_records["arrays"][DIFFERENCE].numpy().copy()


def put(content: RecordDict, array: Array, name: str = DIFFERENCE) -> None:
    content["arrays"] = ArrayRecord({name: array})


def values(change: Callable[[np.ndarray[Any, Any]], Any]) -> Change:
    """The difference is another one."""
    return lambda content: put(content, Array(np.asarray(change(difference(content)))))


def metrics(**changed: Any) -> Change:
    """Other numbers; None removes one."""

    def change(content: RecordDict) -> None:
        numbers = dict(content.metric_records["metrics"]) | {k.replace("_", "-"): v for k, v in changed.items()}
        content["metrics"] = MetricRecord({key: value for key, value in numbers.items() if value is not None})

    return change


def config(**changed: Any) -> Change:
    def change(content: RecordDict) -> None:
        fields = dict(content.config_records["config"]) | changed
        content["config"] = ConfigRecord({key: value for key, value in fields.items() if value is not None})

    return change


def data(change: Callable[[bytes], bytes]) -> Change:
    """Other bytes under the same description."""

    def changed(content: RecordDict) -> None:
        old = content.array_records["arrays"][DIFFERENCE]
        put(content, Array(old.dtype, old.shape, old.stype, change(old.data)))

    return changed


def described(dtype: str | None = None, stype: str | None = None, shape: tuple[int, ...] | None = None) -> Change:
    """The same bytes under another description."""

    def changed(content: RecordDict) -> None:
        old = content.array_records["arrays"][DIFFERENCE]
        put(content, Array(dtype or old.dtype, old.shape if shape is None else shape, stype or old.stype, old.data))

    return changed


def without_record(name: str) -> Change:
    def change(content: RecordDict) -> None:
        del content[name]

    return change


def with_record(name: str, record: Any) -> Change:
    def change(content: RecordDict) -> None:
        content[name] = record

    return change


def one(value: float) -> Change:
    def change(flat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat[7] = value
        return flat

    return values(change)


def flipped(position: int) -> Change:
    return data(lambda old: old[:position] + bytes([old[position] ^ 0x10]) + old[position + 1 :])


def extra_array(content: RecordDict) -> None:
    content.array_records["arrays"]["more"] = Array(np.zeros(3, np.float32))


def other_name(content: RecordDict) -> None:
    put(content, content.array_records["arrays"][DIFFERENCE], "weights")


def objects(content: RecordDict) -> None:
    """A pickle, in what says it is an array of floats."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    old = content.array_records["arrays"][DIFFERENCE]
    put(content, Array(old.dtype, old.shape, old.stype, buffer.getvalue()))


def ten_gigabytes(content: RecordDict) -> None:
    old = content.array_records["arrays"][DIFFERENCE]
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2_500_000_000,)})
    put(content, Array(old.dtype, (2_500_000_000,), old.stype, header.getvalue() + b"\0" * 64))


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


def assert_as_without(out: Outcome, reference: Outcome, word: str) -> None:
    assert out.hash == reference.hash
    assert out.summary["status"] == "finished"
    first, *later = out.rows
    ((rejection,), *none) = (row["rejected"] for row in out.rows)
    assert rejection["node"] == VICTIM
    assert word in rejection["reason"]
    assert "\n" not in rejection["reason"]
    assert first["accepted"] == 3
    assert all(row["accepted"] == 4 for row in later)
    assert not any(none)


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


def test_a_reply_twice_counts_once(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [reply, reply] if trains(request, VICTIM, [1]) else [reply]

    out = play(faults, **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert out.rejected == [{"node": VICTIM, "reason": "duplicate"}]


def test_a_reply_twice_and_later_counts_once(play: Player) -> None:
    first: list[Message] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        again = first[:] if trains(request, rounds=[1]) else []
        first.extend([reply] if trains(request, rounds=[1]) else [])
        return [reply, *again]

    out = play(faults, **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert len(out.rejected) == 6
    assert {r["reason"] for r in out.rejected} == {"duplicate"}


def test_a_reply_to_nothing(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if not trains(request, VICTIM, [1]):
            return [reply]
        stranger = Message(reply.content, reply_to=request)
        stranger.metadata.__dict__["_reply_to_message_id"] = "nobody asked"
        return [stranger, reply]

    out = play(faults, **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert out.rejected == [{"node": None, "reason": "unknown"}]


def test_another_nodes_reply_does_not_take_its_place(play: Player) -> None:
    """Node 2 answers with what node 0 said, of the same size: the nonce alone gives it away."""
    said: list[RecordDict] = []

    def listen(request: Message, reply: Message) -> list[Message]:
        said.extend([reply.content] if trains(request, 0, [1]) else [])
        return [reply]

    def faults(request: Message, reply: Message) -> list[Message]:
        return [Message(said[0], reply_to=request) if trains(request, VICTIM, [1]) else reply]

    keys: dict[str, Any] = {**FOUR, "tiers": "a:1"}
    play(listen, **keys)
    assert_as_without(play(faults, **keys), play(without(VICTIM, [1]), **keys), "answers")


def test_the_reply_of_the_round_before_does_not_take_its_place(play: Player) -> None:
    """Node 2 answers the request of round 2 with what it said in round 1, nonce and all."""
    said: list[RecordDict] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            said.append(reply.content)
        return [Message(said[0], reply_to=request) if trains(request, VICTIM, [2]) else reply]

    keys: dict[str, Any] = {**FOUR, "num_server_rounds": 3}
    out = play(faults, **keys)
    assert out.hash == play(without(VICTIM, [2]), **keys).hash != play(**keys).hash
    assert [row["accepted"] for row in out.rows] == [4, 3, 4]
    assert out.summary["status"] == "finished"
    (rejection,) = out.rows[1]["rejected"]
    assert out.rejected == [rejection]
    assert rejection["node"] == VICTIM
    assert "which is not what the node was asked" in rejection["reason"]


def failing(lost: set[int]) -> Callable[[Message, Message], list[Message]]:
    return lambda request, reply: [failed(request) if any(trains(request, n, [1]) for n in lost) else reply]


@pytest.mark.parametrize(("quorum", "lost", "abandoned"), [(0.75, {1}, False), (0.75, {1, 2}, True), (0.76, {1}, True)])
def test_quorum(play: Player, quorum: float, lost: set[int], abandoned: bool) -> None:
    row = play(failing(lost), quorum=quorum, **FOUR).rows[0]
    assert row["abandoned"] is abandoned
    assert row["accepted"] == 4 - len(lost)


def test_without_quorum_one_reply_is_needed(play: Player) -> None:
    assert play(failing({1, 2, 3}), quorum=0.0, **FOUR).rows[0]["abandoned"] is False
    assert play(failing({0, 1, 2, 3}), quorum=0.0, **FOUR).rows[0]["abandoned"] is True
    with pytest.raises(NothingLearnt):
        play(failing({0, 1, 2, 3}), quorum=0.0, num_server_rounds=1, **FOUR)


# ---- statistics and local scores: not counted, and no harm -----------------------------------------------------------


def moments(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Change:
    def changed(content: RecordDict) -> None:
        array = content.array_records["arrays"]["moments"].numpy().copy()
        content["arrays"] = ArrayRecord({"moments": Array(change(array))})

    return changed


BAD_MOMENTS: dict[str, Change] = {
    "wrong length": moments(lambda m: m[:-1]),
    "nothing in it": moments(lambda m: m[:0]),
    "one number": moments(lambda m: m[:1]),
    "NaN": moments(lambda m: m * np.nan),
    "no examples seen": moments(lambda m: m * 0),
    "a negative count": moments(lambda m: -m),
    "float32": moments(lambda m: m.astype(np.float32)),
    "no arrays": without_record("arrays"),
}


@pytest.mark.parametrize("name", BAD_MOMENTS)
def test_the_run_survives_bad_statistics(play: Player, name: str) -> None:
    """From everybody: then there is no score, or the one that is left, but there is a model."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "query.statistics":
            BAD_MOMENTS[name](reply.content)
        return [reply]

    out = play(faults, **FOUR)
    assert out.summary["status"] == "finished"
    assert out.hash == play.once(**FOUR).hash
    assert out.rows[-1]["accuracy"] is None
    assert out.rows[-1]["tiers"] == {}


@pytest.mark.parametrize("name", BAD_MOMENTS)
def test_bad_statistics_are_left_out(play: Player, name: str) -> None:
    """Of one node in one tier, among others, and first of all."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "query.statistics" and request.metadata.dst_node_id == address_of(victim):
            BAD_MOMENTS[name](reply.content)
        return [reply]

    def lost(request: Message, reply: Message) -> list[Message]:
        asked = request.metadata.message_type == "query.statistics"
        return [failed(request) if asked and request.metadata.dst_node_id == address_of(victim) else reply]

    victim = 0
    keys: dict[str, Any] = {"tiers": "a:1", "num_clients": 3, "num_server_rounds": 1}
    out, reference = play(faults, **keys), play(lost, **keys)
    assert out.rows[-1]["loss"] == reference.rows[-1]["loss"] != play(**keys).rows[-1]["loss"]
    assert [rejection["reason"].split(":")[0] for rejection in out.rejected] == ["statistics"]


def test_without_any_statistics_the_run_ends_without_scores(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if request.metadata.message_type == "query.statistics" else reply]

    out = play(faults, **FOUR)
    assert out.summary["status"] == "finished"
    assert out.summary["best"] is None
    assert out.hash == play.once(**FOUR).hash


@pytest.mark.parametrize("change", [metrics(num_examples=-5.0), metrics(loss=float("nan")), metrics(accuracy=None)])
def test_bad_local_scores_are_left_out(play: Player, change: Change) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "evaluate.part" and request.metadata.dst_node_id == address_of(1):
            change(reply.content)
        return [reply]

    def lost(request: Message, reply: Message) -> list[Message]:
        asked = request.metadata.message_type == "evaluate.part"
        return [failed(request) if asked and request.metadata.dst_node_id == address_of(1) else reply]

    keys: dict[str, Any] = {"fraction_evaluate": 1.0, "num_clients": 3, "num_server_rounds": 1}
    assert play(faults, **keys).rows[0]["local"] == play(lost, **keys).rows[0]["local"]


# ---- the parser alone ------------------------------------------------------------------------------------------------


def encoded(length: int = 5) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(length, dtype=np.float32))
    return buffer.getvalue()


def test_every_flipped_bit_of_the_header_is_refused_or_harmless() -> None:
    good = encoded()
    header = len(good) - 20
    for position in range(header):
        for bit in range(8):
            bad = good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :]
            try:
                read = decode(Array("float32", (5,), "numpy.ndarray", bad), 5)
            except WireError:
                continue
            assert read.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_header_is_refused_in_words(header: bytes) -> None:
    framed = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 20
    with pytest.raises(WireError):
        decode(Array("float32", (5,), "numpy.ndarray", framed), 5)


@pytest.mark.parametrize(
    "header", [b"(" * 300, b"{'descr': '<f4', 'shape': (5,", b"[" * 3000, b"9" * 3000, b"\xff" * 40]
)
def test_headers_that_break_parsers(header: bytes) -> None:
    test_any_header_is_refused_in_words.hypothesis.inner_test(header)  # type: ignore[attr-defined]
