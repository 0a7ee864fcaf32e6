"""What goes through the door behaves as the rest relies on; a real SuperLink is met in tests/e2e and tests/flotilla."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.control_pb2 import ListNodesResponse, ListRunsResponse, StartRunResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run, RunStatus
from hypothesis import given
from hypothesis import strategies as st

from flotilla.flwr_compat.bundle import BundleError, build_bundle
from flotilla.flwr_compat.control import Control
from flotilla.flwr_compat.identity import assume_identity
from flotilla.flwr_compat.messages import from_bytes, from_json, give_id, through_the_wire, to_bytes, to_json
from flotilla.local.shared import attach, detach

APP = """
[project]
name = "theirs"
version = "1.0.0"
license = {file = "LICENSE"}
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "them"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "theirs:app"
clientapp = "theirs:app"
[tool.flwr.app.config]
rounds = 3
"""


def test_records_survive_the_wire() -> None:
    content = RecordDict(
        {
            "arrays": ArrayRecord({"x": Array(np.arange(6, dtype=np.float32).reshape(2, 3))}),
            "config": ConfigRecord({"a": 1, "b": 0.5, "c": "d", "e": True, "f": b"\x00\xff", "g": [1, 2]}),
            "metrics": MetricRecord({"loss": 1.25}),
        }
    )
    again = from_bytes(to_bytes(content))
    assert again == content
    assert to_bytes(again) == to_bytes(content)


def test_a_message_needs_an_identity_and_an_id_can_be_given() -> None:
    make = "from flwr.app import Message, RecordDict; Message(RecordDict(), 1, 'train')"
    without = subprocess.run([sys.executable, "-c", make], capture_output=True, text=True, timeout=600, check=False)
    assert "run_id is not set" in without.stderr  # else `identity` is needed no more
    assume_identity()
    message = Message(RecordDict(), 1, "train")
    assert message.metadata.message_id == ""
    give_id(message, "seven")
    assert message.metadata.message_id == "seven"


@pytest.fixture
def an_app(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(APP)
    (tmp_path / "LICENSE").write_text("free\n")
    (tmp_path / "theirs.py").write_text("app = 1\n")
    return tmp_path


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in flwr's own builder
def test_a_bundle_has_the_app_and_what_is_beside_it(an_app: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "lab.py"
    other.write_text("x = 2\n")
    bundle = build_bundle(an_app, {"my_lab/nets.py": other})
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        assert {"pyproject.toml", "theirs.py", "my_lab/nets.py", "LICENSE"} <= set(archive.namelist())
        assert archive.read("my_lab/nets.py") == b"x = 2\n"
    assert build_bundle(an_app, {"my_lab/nets.py": other}) == bundle  # so a SuperLink knows it again


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
@pytest.mark.parametrize("ignore", ["/out/\nnotes*\n*.json\n", "/out/\n!/out/kept.py\n", "out/*\n", "", None])
def test_a_bundle_is_flowers_own_without_a_look_at_what_it_drops(
    an_app: Path, monkeypatch: pytest.MonkeyPatch, ignore: str | None
) -> None:
    from flwr.cli.build import build_fab_from_disk

    if ignore is not None:
        (an_app / ".gitignore").write_text(ignore)
    for place in (".venv/lib/a.py", "out/kept.py", "out/deep/b.py", "lab/out/c.py", "lab/notes.py", "lab/d.json"):
        (an_app / place).parent.mkdir(parents=True, exist_ok=True)
        (an_app / place).write_text("x = 1\n")
    (an_app / "link.py").symlink_to(an_app / "theirs.py")
    (an_app / "linked").symlink_to(an_app / "lab", target_is_directory=True)
    expected = build_fab_from_disk(an_app)

    seen: set[str] = set()
    scan = os.scandir

    def noted(path: str = ".") -> Any:
        seen.add(os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", noted)
    assert build_bundle(an_app, {}) == expected
    assert str(an_app) in seen
    assert str(an_app / ".venv") not in seen
    assert (str(an_app / "out/deep") in seen) == (not ignore or "!" in ignore)


def test_an_app_that_flower_refuses_is_refused_in_one_line(an_app: Path) -> None:
    (an_app / "pyproject.toml").write_text(APP.replace("theirs:app", "nowhere:app"))
    with pytest.raises(BundleError, match=r"cannot be bundled: .*nowhere") as refused:
        build_bundle(an_app, {})
    assert "\n" not in str(refused.value)


class FakeClient:
    """Keeps what it is asked and answers with flwr's own messages."""

    def __init__(self, **answers: Any) -> None:
        self.asked: dict[str, Any] = {}
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        def call(request: Any) -> Any:
            self.asked[name] = request
            return self._answers.get(name, SimpleNamespace())

        return call


def test_a_run_is_started_with_what_differs() -> None:
    client = FakeClient(StartRun=StartRunResponse(run_id=7))
    assert Control(client).start_run(b"bundle", {"rounds": 5, "method": "x"}, {"num_supernodes": 4}) == 7  # type: ignore[arg-type]
    request = client.asked["StartRun"]
    assert request.fab.content == b"bundle"
    assert request.override_config["rounds"].sint64 == 5
    assert request.override_config["method"].string == "x"
    assert request.override_federation_config.num_supernodes == 4
    refusing = FakeClient(StartRun=StartRunResponse())
    assert Control(refusing).start_run(b"bundle", {}, {}) is None  # type: ignore[arg-type]
    assert not refusing.asked["StartRun"].HasField("override_federation_config")


def test_status_and_nodes() -> None:
    runs = {1: Run(run_id=1, status=RunStatus(status="finished", sub_status="completed")), 2: Run(run_id=2)}
    runs[2].status.status = "running"
    nodes = [NodeInfo(public_key=b"a", status="online"), NodeInfo(public_key=b"b", status="offline")]
    client = FakeClient(ListRuns=ListRunsResponse(run_dict=runs), ListNodes=ListNodesResponse(nodes_info=nodes))
    control = Control(client)  # type: ignore[arg-type]
    assert [control.status(run) for run in (1, 2)] == ["finished:completed", "running"]
    assert [(node.public_key, node.online) for node in control.nodes()] == [(b"a", True), (b"b", False)]
    control.stop(2)
    control.register(b"key", "node-0")
    assert client.asked["StopRun"].run_id == 2
    assert (client.asked["RegisterNode"].public_key, client.asked["RegisterNode"].name) == (b"key", "node-0")


def test_arrays_arrive_as_by_the_wire_and_are_nobody_elses() -> None:
    sent = RecordDict(
        {
            "arrays": ArrayRecord({"b": Array(np.arange(6, dtype="f4").reshape(2, 3)), "a": Array(np.array(3.0))}),
            "none": ArrayRecord({}),
            "said": ConfigRecord({"x": 1, "y": b"z"}),
            "measured": MetricRecord({"m": [0.5, 1.0]}),
        }
    )
    arrived = through_the_wire(sent)
    assert to_bytes(arrived) == to_bytes(sent)
    assert arrived == from_bytes(to_bytes(sent))
    (ours, _), (theirs, _) = arrived.array_records.values(), sent.array_records.values()
    assert list(ours) == ["b", "a"]
    assert ours["b"].data is not theirs["b"].data
    assert all(type(one.shape) is tuple for one in ours.values())


_NUMBERS = st.integers(-(2**64), 2**64) | st.floats() | st.booleans()
_SCALARS = _NUMBERS | st.text(max_size=3) | st.binary(max_size=3)
_VALUES = _SCALARS | st.sampled_from([st.integers(), st.floats(), st.booleans(), st.text(), st.binary()]).flatmap(
    lambda kind: st.lists(kind, max_size=3)
)


def assert_alike(arrived: RecordDict, expected: RecordDict) -> None:
    """Assert that two records are the same, to the types of their values."""
    assert to_bytes(arrived) == to_bytes(expected)
    assert list(arrived) == list(expected)
    for ours, theirs in zip(arrived.values(), expected.values(), strict=True):
        assert type(ours) is type(theirs)
        assert [*map(type, ours.values())] == [*map(type, theirs.values())]


@given(st.dictionaries(st.text(max_size=3), _VALUES, max_size=3), st.text(max_size=2))
def test_what_arrives_is_what_protobuf_has(values: dict[str, Any], name: str) -> None:
    name = f"a{name}"
    sent = RecordDict({name: ConfigRecord(values), "b": MetricRecord({"m": [1, 2], "n": 0.5})})
    said = to_json(sent)
    try:
        expected = from_bytes(to_bytes(sent))
    except (ValueError, TypeError) as error:
        assert said is None
        with pytest.raises(type(error)):
            through_the_wire(sent)
        return
    if said is not None:
        assert_alike(from_json(said), expected)
    arrived = through_the_wire(sent)
    assert_alike(arrived, expected)
    for key, value in arrived[name].items():
        assert not isinstance(value, list) or value is not sent.config_records[name][key]  # nobody else's
    arrived.metric_records["b"]["m"] = 3
    assert sent.metric_records["b"]["m"] == [1, 2]


def test_json_says_all_but_the_data_of_arrays() -> None:
    said = ConfigRecord({"x": 1, "y": [0.1, -0.0], "z": "a", "t": True, "n": [False, True]})
    array = Array(np.arange(6, dtype="f4").reshape(2, 3))
    content = RecordDict({"arrays": ArrayRecord({"b": array}), "said": said, "measured": MetricRecord({"m": [1, 2]})})
    sent = to_json(content)
    assert sent is not None
    arrived = from_json(sent)
    hollow = Array(array.dtype, array.shape, array.stype, b"")
    assert_alike(arrived, RecordDict({**content, "arrays": ArrayRecord({"b": hollow})}))
    arrived.config_records["said"]["another"] = 2  # a record as any
    with pytest.raises(TypeError):
        arrived.config_records["said"]["wrong"] = None  # type: ignore[assignment]


class _Own(ConfigRecord):
    """A record of somebody's own."""


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({"b": b"x"}),
        ConfigRecord({"ä": 1}),
        ConfigRecord({"l": []}),
        MetricRecord({"n": inf - inf}),
        MetricRecord({"i": [0.5, -inf]}),
        _Own({"a": 1}),
    ],
    ids=str,
)
def test_what_json_might_say_otherwise_is_left_to_protobuf(record: ConfigRecord | MetricRecord) -> None:
    content = RecordDict({"said": record, "fields": ConfigRecord({"a": 1})})
    assert to_json(content) is None
    light, _ = detach(content)
    assert_alike(attach(light, []), from_bytes(to_bytes(content)))


@pytest.mark.parametrize("value", ["x", b"x", True, 1.5, None, [1]])
def test_lists_that_were_changed_in_place_arrive_as_by_protobuf_or_not_at_all(value: Any) -> None:
    record = MetricRecord({"m": [1, 2]})
    record["m"][1] = value  # type: ignore[index]
    content = RecordDict({"said": record})

    def arrived(way: Callable[[], RecordDict]) -> object:
        try:
            return [(type(one), one) for one in way()["said"]["m"]]  # type: ignore[union-attr]
        except (TypeError, ValueError):
            return "not at all"

    expected = arrived(lambda: from_bytes(to_bytes(content)))
    assert to_json(content) is None
    assert arrived(lambda: through_the_wire(content)) == expected


@pytest.mark.parametrize("change", [{"data": 3}, {"data": [1, 2]}, {"dtype": 5}, {"shape": ("x",)}])
def test_arrays_that_the_wire_cannot_hold_do_not_arrive(change: dict[str, Any]) -> None:
    array = Array(np.zeros(3, "f4"))
    vars(array).update(change)
    for way in (through_the_wire, lambda content: from_bytes(to_bytes(content))):
        with pytest.raises((TypeError, ValueError)):
            way(RecordDict({"arrays": ArrayRecord({"a": array})}))
