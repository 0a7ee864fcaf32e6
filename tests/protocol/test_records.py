"""The codec of typed messages: what goes in comes out, and whatever else arrives is an error of one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla.flwr_compat.messages import through_the_wire
from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol import (
    VERSION,
    AdversarialTraining,
    ClusterStates,
    CompressedState,
    FedDyn,
    Hello,
    HelloRequest,
    LossRequest,
    Measurements,
    Objective,
    Optimiser,
    PartRequest,
    StatisticsRequest,
    TrainRequest,
    WireError,
    Work,
    encode,
    read_request,
)
from protocol.profile import ProfileRequest, TierWork
from protocol.records import MOST_CHARACTERS, from_config, from_text, to_config, to_text
from protocol.requests import DEVICES
from tests.protocol.cases import difference

texts = st.text(max_size=12)
whole = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
shares = st.builds(Fraction, st.integers(1, 40)).map(lambda x: 1 / x)
scalars = st.one_of(st.booleans(), whole, floats, texts)
plans = st.builds(
    Plan,
    shares,
    shift=whole,
    depth=st.none() | st.integers(1, 9),
    units=st.lists(st.tuples(texts, st.lists(whole, max_size=3).map(tuple)), max_size=2).map(tuple),
    floor=st.booleans(),
    own_exit=st.booleans(),
    dropped=st.lists(whole, max_size=3).map(tuple),
    bases=st.none() | st.lists(whole, min_size=1, max_size=3, unique=True).map(tuple),
    keep=shares,
)
units, few = st.integers(1, 2**24), st.integers(1, 2**10)
networks = st.builds(
    NetworkSpec,
    texts,
    st.lists(units, min_size=1, max_size=3).map(tuple),
    units,
    widths=st.lists(units, max_size=3).map(tuple),
    blocks=st.lists(few, max_size=3).map(tuple),
    norm=texts,
    rates=st.lists(shares, max_size=3).map(tuple),
    private=st.lists(texts, max_size=2).map(tuple),
    variants=st.lists(texts, max_size=2).map(tuple),
    dual=st.booleans(),
)
works = st.builds(
    Work,
    local_epochs=st.integers(0, 10**6),
    device=st.sampled_from(DEVICES),
    measure=st.builds(Measurements, norm=st.booleans(), squared_loss=st.booleans()),
    adversarial=st.none() | st.builds(AdversarialTraining, weight=floats, steps=whole),
)
common: dict[str, Any] = {
    "round_number": whole,
    "nonce": texts,
    "seed": whole,
    "network": networks,
    "plan": plans,
    "sliced": st.booleans(),
    "work": works,
    "clusters": st.none() | st.builds(ClusterStates, count=st.integers(1, 9), shared=st.booleans(), path=st.booleans()),
}
objectives = st.builds(Objective, texts, st.dictionaries(texts, scalars, max_size=3))
optimisers = st.builds(Optimiser, floats, floats, clip_norm=floats)
trainings = st.builds(
    TrainRequest,
    **common,
    objective=objectives,
    optimiser=optimisers,
    codec=texts,
    codec_base=whole,
    counted=whole,
    compressed=st.none() | st.builds(CompressedState, codec=texts, base=whole),
    dynamic_regulariser=st.none() | st.builds(FedDyn, alpha=floats),
)
messages = st.one_of(
    trainings,
    st.builds(PartRequest, **common),
    st.builds(StatisticsRequest, **common, also=st.lists(plans, max_size=3).map(tuple)),
    st.builds(LossRequest, **common, objective=texts, batch=whole),
    st.builds(HelloRequest, labels=st.booleans(), profile=texts),
    st.builds(
        Hello,
        node=whole | st.text(st.characters(categories=("L", "P")), min_size=1, max_size=12),
        examples=st.integers(1, 2**63 - 1),
        labels=st.lists(st.integers(0, 2**63 - 1), max_size=3, unique=True).map(sorted).map(tuple),
        figures=st.dictionaries(texts, st.floats(0, 1e300), max_size=3),
        codecs=st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(
        ProfileRequest,
        network=networks,
        tiers=st.dictionaries(texts, st.builds(TierWork, plans, objectives, works), max_size=2),
    ),
)
PLAIN = TrainRequest(round_number=3, nonce="1-3-0", seed=1, network=NetworkSpec("mlp", (1, 8, 8), 10), plan=Plan())


@settings(max_examples=300, deadline=None)
@given(messages)
def test_every_message_comes_back_as_it_went(message: object) -> None:
    assert from_text(type(message), to_text(message)) == message
    content = through_the_wire(RecordDict({"request": to_config(message)}))
    record = content["request"]
    assert isinstance(record, ConfigRecord)
    found = from_config(type(message), record)
    assert found == message
    assert kinds(found) == kinds(message)


def kinds(value: object) -> object:
    """The types of all that is in a value: True equals 1, and 1 equals 1.0."""
    if is_dataclass(value):
        return [type(value), [kinds(getattr(value, field.name)) for field in fields(value)]]
    if isinstance(value, Mapping):
        return {name: kinds(item) for name, item in value.items()}
    return [kinds(item) for item in value] if isinstance(value, tuple) else type(value)


def test_what_a_run_does_not_use_is_not_in_its_requests() -> None:
    assert set(to_config(PLAIN)) == {"version", "round-number", "nonce", "seed", "network", "plan"}
    assert json.loads(str(to_config(PLAIN)["network"])) == {"name": "mlp", "input-shape": [1, 8, 8], "classes": 10}
    used = replace(PLAIN, dynamic_regulariser=FedDyn(alpha=0.1), clusters=ClusterStates(count=3))
    assert set(to_config(used)) - set(to_config(PLAIN)) == {"dynamic-regulariser", "clusters"}


WRONG: dict[str, tuple[str, Any, str]] = {
    "unknown field": ("colour", "red", "unknown field 'colour'"),
    "our own name for a field": ("round_number", 3, "unknown field 'round_number'"),
    "text for a number": ("seed", "1", "seed: expected a whole number, got '1'"),
    "true for a number": ("seed", True, "seed: expected a whole number, got True"),
    "a fraction of a round": ("round-number", 3.0, "round-number: expected a whole number"),
    "more than 64 bits": ("seed", 2**63, "seed: expected a whole number of 64 bits"),
    "a number for a text": ("nonce", 3, "nonce: expected a text"),
    "a number for true": ("sliced", 1, "sliced: expected true or false"),
    "no JSON": ("plan", "{", "plan: expected JSON text"),
    "no text": ("plan", 3, "plan: expected JSON text, got 3"),
    "JSON of something else": ("plan", "[1]", "plan: expected named fields, got [1]"),
    "null": ("plan", "null", "plan: expected named fields, got None"),
    "too deep": ("plan", "[" * 200_000, "plan: expected JSON text"),
    "a number of many digits": ("plan", '{"shift":' + "9" * 5000 + "}", "plan: expected JSON text"),
    "an unknown field inside": ("plan", '{"colour":1}', "plan: unknown field 'colour'"),
    "a rate in floating point": ("plan", '{"rate":0.5}', "plan: rate: expected a fraction"),
    "a rate without end": ("plan", '{"rate":"1e999999999"}', "plan: rate: expected a fraction"),
    "a rate over nothing": ("plan", '{"rate":"1/0"}', "plan: rate: expected a fraction"),
    "a rate above 1": ("plan", '{"rate":"3/2"}', "plan: rate = 3/2: allowed is more than 0 and at most 1"),
    "no groups": ("plan", '{"rate":{"rest":"1","groups":[]}}', "plan: rate: groups '': allowed is 1 to 16"),
    "a group twice": (
        "plan",
        '{"rate":{"rest":"1","groups":[["a","1/2"],["a","1/4"]]}}',
        "plan: rate: groups 'a, a': allowed is 1 to 16, each once",
    ),
    "a group's rate above 1": (
        "plan",
        '{"rate":{"rest":"1","groups":[["a","3/2"]]}}',
        "plan: rate: share 3/2: allowed",
    ),
    "a group's rate in floating point": (
        "plan",
        '{"rate":{"rest":"1","groups":[["a",0.5]]}}',
        "plan: rate: groups: expected a fraction",
    ),
    "units of no axis": ("plan", '{"units":[[3,[1]]]}', "plan: units: expected a text, got 3"),
    "units that are no pairs": ("plan", '{"units":[["a"]]}', "plan: units: expected a list of 2"),
    "units that are a text": ("plan", '{"units":"ab"}', "plan: units: expected a list"),
    "a network without classes": ("network", '{"name":"mlp","input-shape":[1]}', "network: classes is missing"),
    "not a number": ("optimiser", '{"learning-rate":NaN}', "optimiser: learning-rate: expected a finite number"),
    "infinity": ("optimiser", '{"learning-rate":1e999}', "optimiser: learning-rate: expected a finite number"),
    "no clusters": ("clusters", '{"count":0}', "clusters: count = 0: allowed is 1 to 4096"),
    "an objective's settings": ("objective", '{"settings":{"a":[1]}}', "objective: settings: expected true or false"),
    "settings that are a list": ("objective", '{"settings":[]}', "objective: settings: expected named values"),
    "an old version": ("version", VERSION - 1, f"the other side speaks protocol {VERSION - 1}, this one {VERSION}"),
    "a version that equals ours": ("version", float(VERSION), f"the other side speaks protocol {VERSION}.0"),
    "no version": ("version", None, "the other side speaks protocol None"),
    "no nonce": ("nonce", None, "nonce is missing"),
    "no plan": ("plan", None, "plan is missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_an_error_of_one_line(name: str) -> None:
    field, value, expected = WRONG[name]
    values: dict[str, Any] = dict(to_config(PLAIN)) | {field: value}
    with pytest.raises(WireError) as caught:
        from_config(TrainRequest, {key: value for key, value in values.items() if value is not None})
    line = str(caught.value)
    assert expected in line
    assert "\n" not in line
    assert len(line) < 200


def test_texts_are_bounded() -> None:
    values = dict(to_config(PLAIN))
    for field in ("nonce", "plan"):
        with pytest.raises(WireError, match=f"{field}: expected a text of at most"):
            from_config(TrainRequest, values | {field: "x" * (MOST_CHARACTERS + 1)})


def test_a_request_needs_its_records() -> None:
    record, state = to_config(PLAIN), ArrayRecord({"state": encode(difference())})
    assert read_request(TrainRequest, RecordDict({"request": record, "arrays": state}))[0] == PLAIN
    broken: list[dict[str, Any]] = [
        {"arrays": state},
        {"request": record},
        {"config": record, "arrays": state},
        {"request": state, "arrays": state},
        {"request": record, "arrays": record},
        {"request": record, "arrays": ArrayRecord()},
    ]
    for content in broken:
        with pytest.raises(WireError, match="unreadable request: no "):
            read_request(TrainRequest, RecordDict(content))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_message_is_another_message_or_an_error(data: st.DataObject) -> None:
    """Never an exception of another kind, whatever stands in a field."""
    values: dict[str, Any] = dict(to_config(data.draw(trainings)))
    names = st.sampled_from(sorted(values))
    junk = st.one_of(scalars, st.lists(whole, max_size=2), st.just("{}"), st.recursive(scalars, nested).map(json.dumps))
    for _ in range(data.draw(st.integers(1, 3))):
        values[data.draw(names)] = data.draw(junk)
    with contextlib.suppress(WireError):
        found = from_config(TrainRequest, values)
        assert from_config(TrainRequest, to_config(found)) == found


def nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists and named values of what there is."""
    names = st.sampled_from(["rate", "units", "name", "classes", "count", "settings"])
    return st.lists(children, max_size=2) | st.dictionaries(names, children, max_size=3)


def test_a_type_that_cannot_cross_is_found_where_it_is_declared() -> None:
    with pytest.raises(TypeError, match="cannot have a field of type"):
        from_text(bytes, "3")
