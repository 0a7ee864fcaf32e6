"""Whatever texts and literals a peer puts anywhere, the run ends as if that had never come, and keeps nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client_app.app import app
from flotilla.local.grid import LocalGrid, contexts
from protocol import DIFFERENCE, MOST_OF_A_REASON, Hello
from strategies.exchange.messaging import exchange
from strategies.exchange.update import Rejection
from tests.support import Outcome, Player, address_of, keys_of, trains, without
from tests.support import play as play_in

VICTIM = 2
FOUR: dict[str, Any] = {"num_clients": 4}
HALF = "float32\udc80"  # what Python makes of a byte that is no UTF-8
LONG = "x" * (20 << 20)
DIGITS = "0x" + "f" * 6000  # a whole number that Python refuses to write in decimals
TERMINAL = "\x1b[31mred\x1b[0m\r\n\u202egnp.exe"

Change = Callable[[RecordDict], None]


def described(**changed: Any) -> Change:
    """The same bytes under another description, which no constructor looks at."""

    def change(content: RecordDict) -> None:
        old = content.array_records["arrays"][DIFFERENCE]
        content["arrays"] = ArrayRecord({DIFFERENCE: Array(old.dtype, old.shape, old.stype, old.data)})
        for name, value in changed.items():
            setattr(content.array_records["arrays"][DIFFERENCE], name, value)

    return change


def header(text: bytes) -> Change:
    """Another header in front of the same numbers."""

    def change(content: RecordDict) -> None:
        old = content.array_records["arrays"][DIFFERENCE]
        numbers = old.data[-4 * old.shape[0] :]
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + numbers
        content["arrays"] = ArrayRecord({DIFFERENCE: Array(old.dtype, old.shape, old.stype, data)})

    return change


def said(**fields: Any) -> Change:
    def change(content: RecordDict) -> None:
        content["config"] = ConfigRecord(dict(content.config_records["config"]) | fields)

    return change


def number(name: str, value: Any) -> Change:
    def change(content: RecordDict) -> None:
        content.metric_records["metrics"]._data[name] = value  # type: ignore[attr-defined]

    return change


def renamed(name: str) -> Change:
    """The array has another name."""

    def change(content: RecordDict) -> None:
        content["arrays"] = ArrayRecord({name: content.array_records["arrays"][DIFFERENCE]})

    return change


BAD: dict[str, Change] = {
    "half a surrogate pair as type": described(dtype=HALF),
    "half a surrogate pair as serialisation": described(stype=HALF),
    "20 MB as type": described(dtype=LONG),
    "a terminal's commands as type": described(dtype=TERMINAL),
    "a number as type": described(dtype=10**5000),
    "lists as shape": described(shape=([[1]], {"a": 1})),
    "thousands of digits as shape": described(shape=(10**5000,)),
    "a million sides": described(shape=(1,) * 1_000_000),
    "thousands of hexadecimal digits in the header": header(f"{{'descr': {DIGITS}}}\n".encode()),
    "thousands of digits in the header": header(b"{'descr': " + b"9" * 5000 + b"}\n"),
    "deep nesting in the header": header(b"(" * 4000),
    "a call in the header": header(b"{'descr': print('here'), 'fortran_order': False}\n"),
    "20 MB as nonce": said(nonce=LONG),
    "half a surrogate pair as nonce": said(nonce=HALF),
    "a terminal's commands as nonce": said(nonce=TERMINAL),
    "a nonce of numbers": said(nonce=[1.0] * 100_000),
    "20 MB as a field's name": said(**{LONG: 1}),
    "half a surrogate pair as a field's name": said(**{HALF: 1}),
    "another version, of 20 MB": said(version=LONG),
    "a number without end": number("num-examples", 10**400),
    "half a surrogate pair as a number": number("num-examples", HALF),
    "a number's name of 20 MB, and no number": number(LONG, "nothing"),
    "another array, of half a surrogate pair": renamed(HALF),
    "another array, of 20 MB": renamed(LONG),
}


@pytest.fixture(scope="module")
def reference(play: Player) -> Outcome:
    """The run in which the victim's reply of round 1 is lost."""
    return play(without(VICTIM, [1]), **FOUR)


def assert_plain(out: Outcome) -> None:
    """Nothing long and nothing odd is in any file of the run."""
    for file in out.path.rglob("*"):
        if file.suffix in (".json", ".jsonl"):
            text = file.read_text(encoding="utf-8")
            assert len(text) < 100_000, file
            assert "\x1b" not in text
            assert "\\ud" not in text.replace("\\\\", ""), file  # half a pair; escaped twice it is a text about one
    assert all(len(one["reason"]) <= MOST_OF_A_REASON and one["reason"].isprintable() for one in out.rejected)


@pytest.mark.parametrize("name", BAD)
def test_any_bytes_in_a_reply_are_no_reply(play: Player, reference: Outcome, name: str) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            BAD[name](reply.content)
        return [reply]

    out = play(faults, **FOUR)
    assert out.hash == reference.hash
    assert out.summary["status"] == "finished"
    assert [one["node"] for one in out.rejected] == [VICTIM]
    assert_plain(out)


def test_an_error_that_nobody_foresaw_is_no_reply(
    play: Player, reference: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of the server's own, that one reply brings about: the run goes on, and says where to look."""
    from strategies.round import stages

    decode = stages.decode
    seen: list[Any] = []

    def failing(uplink: Any, assignment: Any, update: Any) -> Any:
        if assignment.node.id == VICTIM and not seen:
            seen.append(assignment)
            raise KeyError(LONG)
        return decode(uplink, assignment, update)

    monkeypatch.setattr(stages, "decode", failing)
    out = play(**FOUR)
    assert out.hash == reference.hash
    assert out.rejected == [{"node": VICTIM, "reason": "it cannot be read (KeyError)"}]


def test_a_run_goes_on_after_a_reason_of_any_text(play: Player) -> None:
    """The reason is in the newest checkpoint, from which the line of the metrics is made again."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            described(dtype=HALF)(reply.content)
        return [reply]

    whole, half = play(faults, num_server_rounds=2, **FOUR), play(faults, num_server_rounds=1, **FOUR)
    (half.path / "metrics.jsonl").write_text("")
    again = play_in(half.path, resume=str(half.path), num_server_rounds=2, **FOUR)
    assert again.hash == whole.hash
    assert [row["rejected"] for row in again.rows] == [row["rejected"] for row in whole.rows]


HELLOS: dict[str, Any] = {
    "a nameless node": "",
    "half a surrogate pair": HALF,
    "a terminal's commands": TERMINAL,
    "a name of 20 MB": LONG,
    "a number without end": 10**400,
}


@pytest.mark.parametrize("name", HELLOS)
def test_any_bytes_in_a_hello_are_no_hello(play: Player, name: str) -> None:
    """The run is the one in which the node is not there."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "query.hello" and request.metadata.dst_node_id == address_of(3):
            fields = dict(Hello(node=3, examples=10).to_record().config_records["config"])
            record = ConfigRecord(fields)
            record._data["node"] = HELLOS[name]  # type: ignore[attr-defined]
            return [Message(RecordDict({"config": record}), reply_to=request)]
        return [reply]

    everybody = contexts(keys_of(**FOUR), 4)
    del everybody[address_of(3)]
    out = play(faults, **FOUR)
    assert out.hash == play(nodes=everybody, **FOUR).hash
    assert {one["node"] for one in out.rejected} == {None}
    assert all(one["reason"].startswith(f"hello of node {address_of(3)}: ") for one in out.rejected)
    assert_plain(out)


@pytest.mark.parametrize("kind", ["query.statistics", "query.losses", "evaluate.part", "query.gradients"])
def test_any_bytes_in_another_answer_are_no_answer(play: Player, kind: str) -> None:
    """To what is asked beside training, by every way in which an answer of numbers can be odd."""
    ways = iter(["nonce", "name", "number", "type"] * 10)

    def odd(content: RecordDict) -> None:
        way = next(ways)
        if way == "nonce":
            said(nonce=HALF)(content)
        elif way == "name":
            number(LONG, "nothing")(content)
        elif way == "number" or "arrays" not in content:
            number("loss", 10**400)(content)
        else:
            (key,) = content.array_records["arrays"]
            array = content.array_records["arrays"][key]
            array.dtype = HALF

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == kind and request.metadata.dst_node_id == address_of(VICTIM):
            odd(reply.content)
        return [reply]

    selection = {"query.losses": "pow-d", "query.gradients": "divfl"}.get(kind, "uniform")
    keys: dict[str, Any] = {"selection": selection, "fraction_train": 0.5, "fraction_evaluate": 1.0, "tiers": "a:1"}
    out = play(faults, **FOUR, **keys, num_server_rounds=3, evaluate_every=1)
    assert out.summary["status"] == "finished"
    assert {one["node"] for one in out.rejected} <= {VICTIM}
    assert_plain(out)


def test_an_error_that_cannot_be_sent_ends_the_clients_process(play: Player, reference: Outcome) -> None:
    """The local engine hands on what protobuf holds, and no more: as with a real one, it is an error all the same."""

    def client(message: Message, context: Context) -> Message:
        if trains(message, VICTIM, [1]):
            raise ValueError("scan-of-\udce9mile.png cannot be read")
        return app(message, context)

    out = play(client=client, **FOUR)
    assert out.hash == reference.hash
    assert [one["node"] for one in out.rejected] == [VICTIM]
    assert_plain(out)


def test_one_place_escapes_every_reason() -> None:
    for text in (HALF, LONG, TERMINAL, "\0" * 10_000, "e\u0301" * 10_000, "\U0001f600" * 10_000):
        reason = Rejection(0, text).reason
        assert len(reason) <= MOST_OF_A_REASON
        assert reason.isprintable()
        assert Rejection(0, reason).reason == reason
        reason.encode()


@pytest.mark.parametrize("damage", [b"\xff", b"\0", b"\x22", b"}"])
def test_a_flipped_byte_in_the_metrics_costs_a_line(play: Player, damage: bytes, caplog: Any) -> None:
    whole, half = play(num_server_rounds=3, **FOUR), play(num_server_rounds=2, **FOUR)
    file = half.path / "metrics.jsonl"
    data = file.read_bytes()
    file.write_bytes(damage + data[1:])
    again = play_in(half.path, resume=str(half.path), num_server_rounds=3, **FOUR)
    assert again.hash == whole.hash
    assert [row["round"] for row in again.rows] == [2, 3]
    assert again.summary["status"] == "finished"
    assert "line 1 is left out" in caplog.text
    json.loads((half.path / "summary.json").read_text())


def test_what_a_grid_cannot_make_a_message_of_is_no_reply() -> None:
    """flwr parses replies where they are fetched: what one node sent must not cost the others' replies."""

    class Parsing(LocalGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            found = list(super().pull_messages(message_ids))
            if any(one.metadata.src_node_id == address_of(1) for one in found):
                raise KeyError("dtype")
            return found

    nodes = contexts(keys_of(num_clients=3), 3)
    grid = Parsing(app, nodes)
    taken: dict[int, Message | None] = {}
    record = RecordDict({"request": ConfigRecord({"version": 2})})
    messages = [Message(content=record, message_type="query.hello", dst_node_id=address_of(i)) for i in range(3)]
    exchange(grid, messages, taken.__setitem__, seconds=1.0)
    assert [i for i in range(3) if taken[i] is not None] == [0, 2]
