"""Texts and literals of every kind in every field of every message, by the hundred thousand.

A valid message gets one to three of its fields, at any depth, replaced, renamed, left out or added to; what stands
there then is drawn from all of Unicode with lone surrogates, numbers of any size and kind, nesting of any depth, code
and containers. It is read as its receiver reads it, and either refused with one short line of print, or it is a message
that comes back as it went. `make fuzz` runs this beside the mutated frames of `tests.protocol.fuzz`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol import (
    DIFFERENCE,
    GRADIENT,
    MOMENTS,
    MOST_OF_A_REASON,
    AdversarialTraining,
    ClusterStates,
    CompressedState,
    DataReply,
    FedDyn,
    Hello,
    HelloRequest,
    LossRequest,
    Measurements,
    Objective,
    PartRequest,
    Reply,
    StatisticsRequest,
    TrainRequest,
    WireError,
    Work,
    decode,
    encode,
    read_request,
)
from protocol.profile import ProfileRequest, TierWork
from protocol.records import from_config, from_text, to_config, to_text
from protocol.secure.messages import (
    RECORD,
    KeysReply,
    KeysRequest,
    SecureSum,
    SharesReply,
    SharesRequest,
    StageMessage,
    SumRefusal,
    UnmaskReply,
    UnmaskRequest,
)
from strategies.exchange.update import Rejection, why_unusable
from tests.protocol.cases import difference

SIZES = (5, 130, 2, 101)
LONG = "x" * (20 << 20)  # made once: a text is not copied to be refused
_FLAT = encode(difference(SIZES))
_PLACES = ("config", "request", "metrics", RECORD)

Read = Callable[[RecordDict], object]


@dataclass
class Kind:
    """A message: an example of it, how its receiver reads it, how what was read is written again, what it says."""

    name: str
    example: RecordDict
    _: KW_ONLY
    read: Read
    again: Callable[[Any], object]
    said: object = field(init=False)

    def __post_init__(self) -> None:
        self.said = self.read(self.example)


def _network() -> NetworkSpec:
    return NetworkSpec("cnn", (1, 8, 8), 10, widths=(4, 8), rates=(Fraction(1), Fraction(1, 2)), private=("a",))


def _common() -> dict[str, Any]:
    training = AdversarialTraining(weight=0.5)
    return {
        "round_number": 3,
        "nonce": "0" * 32,
        "seed": 1,
        "network": _network(),
        "plan": Plan(Fraction(1, 2), units=(("stage1", (0, 2)),), depth=2, bases=(0, 1)),
        "sliced": True,
        "work": Work(local_epochs=2, measure=Measurements(norm=True), adversarial=training),
        "clusters": ClusterStates(count=2, shared=True),
        "facts": '{"classes":10}',
    }


def _request(name: str, request: Any) -> Kind:
    kind, state = type(request), ArrayRecord({"state": _FLAT})

    def read(content: RecordDict) -> object:
        found, array = read_request(kind, content)
        decode(array, sum(SIZES))
        return found

    return Kind(
        name,
        request.to_record(state),
        read=read,
        again=lambda found: from_config(kind, to_config(found)),
    )


def _flat(name: str, message: Any, record: RecordDict) -> Kind:
    kind = type(message)
    return Kind(name, record, read=kind.from_record, again=lambda found: from_config(kind, to_config(found)))


def _profile() -> Kind:
    """The text in a hello's request, read as the device reads it."""
    tiers = {"a": TierWork(Plan(), Objective("exits", {"weight": 0.5}), Work()), "b": TierWork(Plan(Fraction(1, 2)))}
    request = ProfileRequest(network=_network(), tiers=tiers)

    def read(content: RecordDict) -> object:
        return ProfileRequest.from_text(HelloRequest.from_record(content).profile)

    record = HelloRequest(profile=request.to_text()).to_record()
    return Kind("profile", record, read=read, again=lambda found: from_text(ProfileRequest, to_text(found)))


def _answer(name: str, array: str | None) -> Kind:
    numbers = {"num-examples": 10.0, "loss": 0.5, "accuracy": 0.25, "seconds": 1.0, "steps": 3.0}

    def read(content: RecordDict) -> object:
        reply = Reply.from_record(content, array)
        if reply.array is not None:
            decode(reply.array, sum(SIZES))
        return reply.nonce, dict(reply.metrics)

    record = Reply("0" * 32, None if array is None else _FLAT, numbers).to_record(array or DIFFERENCE)
    return Kind(name, record, read=read, again=lambda found: found)


def kinds() -> list[Kind]:
    """Every message of the protocol, as large as it gets."""
    common = _common()
    training = TrainRequest(
        **common,
        objective=Objective("exits", {"weight": 0.5, "warm": True}),
        codec="qsgd",
        codec_base=7,
        compressed=CompressedState(codec="qsgd", base=3),
        dynamic_regulariser=FedDyn(alpha=0.1),
        secure=SecureSum(session="s", senders=(0, 2), envelopes=("", "gA=="), weight=0.5, share=1.0, clip=8.0),
    )
    hello = Hello(
        node="kitchen",
        examples=10,
        labels=(0, 3),
        tokens=(1, 2),
        tier="a",
        figures={"step:a": 0.1},
        codecs=("float32",),
    )
    facts = DataReply(node=3, summary='{"examples":10}')
    asked = HelloRequest(labels=True, tokens=True, profile="{}", facts="{}")
    return [
        _flat("hello's request", asked, asked.to_record()),
        _profile(),
        _flat("hello", hello, hello.to_record()),
        _flat("facts", facts, facts.to_record()),
        _request("train's request", training),
        _request("a request about a part", PartRequest(**common)),
        _request("a question for statistics", StatisticsRequest(**common, also=(Plan(), Plan()))),
        _request("a probe's request", LossRequest(**common, batch=3)),
        _answer("a difference", DIFFERENCE),
        _answer("moments", MOMENTS),
        _answer("a gradient", GRADIENT),
        _answer("scores", None),
        *(_flat(type(one).__name__, one, one.to_record()) for one in _stages()),
    ]


def _stages() -> list[StageMessage]:
    """Those of secure aggregation."""
    said = {"nonce": "0" * 32, "session": "1" * 32}
    keys, nonce = ("-----BEGIN PUBLIC KEY-----", "b", "c"), {"nonce": "0" * 32}
    return [
        KeysRequest(**said),
        KeysReply(**nonce, mask_key=keys[0], seal_key="d"),
        SharesRequest(**said, position=1, threshold=2, mask_keys=keys, seal_keys=("d", "e", "f")),
        SharesReply(**nonce, envelopes=("gA==", "", "gB==")),
        SumRefusal(**nonce, unreadable=(0, 2)),
        UnmaskRequest(**said, survivors=(0, 2)),
        UnmaskReply(**nonce, shares=("00ff", "", "1234")),
    ]


def text(r: random.Random) -> str:
    """A text of any characters."""
    way = r.randrange(12)
    if way < 4:  # any code points, surrogates too
        return "".join(chr(r.randrange(0x110000)) for _ in range(r.choice((1, 2, 8, 40))))
    if way == 4:
        return r.choice(
            ("\udc80", "a\ud800", "\ud83d", "\udfff\ud800", "\x1b[31mred\x1b[0m\r\n", "\u202egnp.exe", "\0")
        )
    if way == 5:
        return r.choice(
            ("", " ", "0", "-1", "true", "null", "NaN", "Infinity", "1/0", "1e999999999", "0x" + "f" * 6000)
        )
    if way == 6:
        return r.choice(("9", "٣", "१")) * r.choice((1, 19, 5000))
    if way == 7:
        return r.choice(("[", "(", '{"a":', '{"network":{"name":', "-")) * (
            200_000 if r.random() < 0.01 else r.choice((1, 50, 3000))
        )
    if way == 8:
        return r.choice(("print('here')", "__import__('os')", "{'descr': '<f4'}", "x" * 300, "é" * 5000))
    if way == 9:
        return written(literal(r, 3), r)
    if way == 10 and r.random() < 0.002:
        return LONG
    return r.choice(("cnn", "a", "1/2", "float32", "stage1", "{}", "[]", '{"rate":"1/2"}'))


def literal(r: random.Random, depth: int = 2) -> Any:
    """A value of any kind."""
    way = r.randrange(10)
    if way < 4:
        return text(r) if depth < 3 else "".join(map(chr, r.sample(range(0xD7FF), 5)))
    if way < 6:
        return r.choice((0, 1, -1, 2, 10, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, 10**5000))
    if way == 6:
        return r.choice((0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf")))
    if way == 7:
        return r.choice((True, False, None, b"", b"\xff\x00", r.randbytes(9)))
    if not depth:
        return 3
    if way == 8:
        return [literal(r, depth - 1) for _ in range(r.choice((0, 1, 3)))]
    return {text(r)[:20]: literal(r, depth - 1) for _ in range(r.choice((0, 1, 2)))}


def written(value: Any, r: random.Random) -> str:
    """As JSON, or near it: also numbers that Python does not write."""
    try:
        return json.dumps(value, ensure_ascii=r.random() < 0.5, default=str)
    except ValueError:
        return '{"rate":"1/2","shift":' + "9" * 5000 + "}"


def within(value: Any, r: random.Random) -> Any:
    """JSON with something else somewhere in it."""
    if isinstance(value, dict) and value and r.random() < 0.85:
        key = r.choice(list(value))
        way = r.random()
        if way < 0.08:
            return {name: item for name, item in value.items() if name != key}
        if way < 0.16:
            return value | {text(r)[:2000]: literal(r)}
        return value | {key: within(value[key], r)}
    if isinstance(value, list) and value and r.random() < 0.85:
        i = r.randrange(len(value))
        return [*value[:i], within(value[i], r), *value[i + 1 :]]
    return literal(r)


def _is_json(old: str) -> bool:
    """Whether a text of a message is one that was mutated by nobody yet."""
    try:
        return len(old) < 10_000 and isinstance(json.loads(old), dict)
    except (ValueError, RecursionError):
        return False


def instead(old: object, r: random.Random) -> object:
    """What stands in a field after the mutation."""
    if isinstance(old, str) and _is_json(old) and r.random() < 0.7:
        return written(within(json.loads(old), r), r)
    # What is long already stays: one character of four bytes would make it four times as large, in our memory.
    if isinstance(old, str) and 0 < len(old) < 10_000 and r.random() < 0.2:
        at = r.randrange(len(old))
        return old[:at] + text(r)[:100] + old[at + r.choice((0, 1)) :]
    return literal(r)


def mutated(example: RecordDict, r: random.Random) -> RecordDict:
    """A copy of a message, with one to three things in it that nobody wrote."""
    content = RecordDict(dict(example))
    for _ in range(r.choice((1, 1, 2, 3))):
        name = r.choice([name for name in content if name in _PLACES or r.random() < 0.3] or list(content))
        record = content[name]
        if r.random() < 0.02:
            del content[name]
            if not content:
                break
        elif isinstance(record, ArrayRecord):
            content[name] = _described(record, r)
        else:
            content[name] = _changed(record, r)
    return content


def _changed(record: Any, r: random.Random) -> Any:
    """Fields or numbers, under the constructor's checks: a peer's bytes do not pass through ours."""
    found: Any = (MetricRecord if isinstance(record, MetricRecord) else ConfigRecord)()
    values = dict(record)
    way, key = r.random(), r.choice(list(values) or [""])
    if way < 0.1:
        values.pop(key, None)
    elif way < 0.2:
        values[text(r)] = literal(r)
    else:
        values[key] = instead(values.get(key), r)
    found._data.update(values)
    return found


def _described(record: ArrayRecord, r: random.Random) -> ArrayRecord:
    """An array with another description, another name or other bytes."""
    if not record:
        return record
    key = next(iter(record))
    changed = ArrayRecord({key: Array(_FLAT.dtype, _FLAT.shape, _FLAT.stype, _FLAT.data)})
    array, way = changed[key], r.randrange(5)
    if way == 0:
        return ArrayRecord({text(r)[:1000]: _FLAT})
    if way == 1:
        start = text(r)[:3000].encode("utf-8", "surrogatepass")
        array.data = b"\x93NUMPY\x01\x00" + (len(start) % 65536).to_bytes(2, "little") + start + _FLAT.data[-64:]
    else:
        setattr(array, ("dtype", "shape", "stype")[way - 2], literal(r) if r.random() < 0.5 else (literal(r),))
    return changed


def check(kind: Kind, content: RecordDict) -> str:
    """Read a message; what came of it, in a word.

    Raises:
        AssertionError: it was neither refused in one line nor is it a message.
    """
    try:
        found = kind.read(content)
    except WireError as error:
        reason = Rejection(None, why_unusable(error)).reason
        assert reason.isprintable(), kind.name
        assert len(reason) <= MOST_OF_A_REASON
        json.dumps(reason, ensure_ascii=False).encode()
        return "refused"
    assert kind.again(found) == found, kind.name
    return "the same" if found == kind.said else "another message"


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Try so many messages, of all kinds in turn; how many ended how."""
    r, everybody, seen = random.Random(seed), kinds(), Counter[str]()
    for i in range(count):
        kind = everybody[i % len(everybody)]
        content = mutated(kind.example, r)
        try:
            seen[check(kind, content)] += 1
        except Exception as error:
            raise AssertionError(f"message {i} of seed {seed}, {kind.name}: {type(error).__name__}") from error
    return seen


def fields_tried(count: int, seed: int = 0) -> Mapping[str, int]:
    """Kind and field → how often it was not what it is in the example."""
    r, everybody, seen = random.Random(seed), kinds(), Counter[str]()
    for i in range(count):
        kind = everybody[i % len(everybody)]
        content = mutated(kind.example, r)
        for name in _PLACES:
            before, after = kind.example.get(name), content.get(name)
            if isinstance(before, ConfigRecord | MetricRecord) and isinstance(after, ConfigRecord | MetricRecord):
                seen.update(
                    f"{kind.name}: {key}" for key in before if key not in after or after[key] is not before[key]
                )
    return seen
