"""What a server sends to a device: bounded before anything is built, and never followed to code of its choice."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client_app.app import app
from flotilla.local.base import address_of
from protocol import TRAIN, encode
from tests.support import Player, context_of, keys_of, trains

MARKER = "code_that_nobody_asked_for"
Asked = tuple[dict[str, Any], ArrayRecord, Context]


@pytest.fixture(scope="module")
def asked(play: Player) -> Asked:
    """An ordinary request to train: its fields, its state, and the device's context."""
    seen: list[RecordDict] = []

    def client(message: Message, context: Context) -> Message:
        if trains(message, 1, [1]):
            seen.append(message.content)
        return app(message, context)

    play(client=client, num_clients=3, num_server_rounds=1)
    node = address_of(1)
    config = {"partition-id": 1, "num-partitions": 3}
    context = context_of(node, node_config=config, run_config=keys_of(num_clients=3))
    return dict(seen[0].config_records["request"]), seen[0].array_records["arrays"], context


def field(name: str, /, **changed: Any) -> Callable[[dict[str, Any]], None]:
    """Other values in one of the fields that are JSON."""

    def change(fields: dict[str, Any]) -> None:
        fields[name] = json.dumps(json.loads(fields.get(name, "{}")) | changed)

    return change


def flat(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.update({name.replace("_", "-"): value for name, value in changed.items()})


def answer(asked: Asked, change: Callable[[dict[str, Any]], None]) -> Message:
    fields, state, context = dict(asked[0]), asked[1], asked[2]
    change(fields)
    record = ConfigRecord()
    record._data.update(fields)  # type: ignore[attr-defined]
    content = RecordDict({"request": record, "arrays": state})
    return app(Message(content=content, message_type=TRAIN, dst_node_id=context.node_id), context)


ADAPTER = {"rank": 1, "alpha": 1.0, "targets": ["linear"], "sketched": False}
IMPOSSIBLE: dict[str, Callable[[dict[str, Any]], None]] = {
    "wider than what came": field("network", widths=[4096, 4096]),
    "widths without end": field("network", widths=[2**62, 2**62]),
    "a layer a million times": field("network", widths=[8] * 1_000_000),
    "blocks without end": field("network", name="resnet", input_shape=[1, 8, 8], blocks=[2**40]),
    "nets without end": field("network", bases=2**40),
    "inputs without end": field("network", input_shape=[1, 2**40, 2**40]),
    "no input": field("network", input_shape=[]),
    "an adapter on no base": field("network", adapter=ADAPTER),
    "a base larger than the machine": field("network", adapter=ADAPTER, base="0" * 64, widths=[2**21, 2**21]),
    "classes without end": field("network", classes=2**50),
    "a network of no name": field("network", name="nothing"),
    "a rate of nothing": field("plan", rate="0"),
    "a share of 10 to a power without end": field("plan", keep="1e20000000"),
    "a variant's share of a power without end": field("network", variants=[json.dumps({"keep": "1e20000000"})]),
    "units that are not there": field("plan", units=[["hidden1", [10**9]]]),
    "depths that are not there": field("plan", depth=10**9),
    "no examples a batch": field("work", **{"batch-size": 0}),
    "epochs without end": field("work", **{"local-epochs": 2**62}),
    "steps without end": field("work", **{"local-steps": 2**62}),
    "threads without end": field("work", threads=2**31),
    "no threads": field("work", threads=0),
    "another device": field("work", device="meta"),
    "states without end": field("clusters", count=2**62),
    "facts that are none": flat(facts='{"classes": 3}'),
    "a codec of no name": flat(codec="nothing"),
    "a codec of odd settings": flat(codec='{"name": "qsgd", "levels": 1e308}'),
    "masks without a session": field("secure", session="x", senders=[0], envelopes=[""], weight=1, share=1, clip=1),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_device_can_do_is_refused(asked: Asked, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error, and before anything of more than a few megabytes is made."""
    empty = torch.empty

    def bounded(*sizes: Any, **options: Any) -> Any:
        made = empty(*sizes, **options)
        assert made.numel() < 2**22 or made.device.type == "meta"
        return made

    monkeypatch.setattr(torch, "empty", bounded)
    monkeypatch.setattr(torch, "zeros", bounded)
    with pytest.raises(Exception, match=r"request: |settings: |failed: ") as caught:
        answer(asked, IMPOSSIBLE[name])
    assert not isinstance(caught.value, AssertionError)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        field("network", name=f"{MARKER}:made"),
        field("objective", name=f"{MARKER}:made"),
        field("objective", name=f"__import__('{MARKER}').made()"),
        flat(codec=f"{MARKER}:made"),
        flat(codec=f"__import__('{MARKER}')"),
        field("network", norm=f"{MARKER}:made"),
        field("network", variants=[f"__import__('{MARKER}')"]),
    ],
    ids=["network", "objective", "call", "codec", "codec's call", "norm", "variant"],
)
def test_no_name_runs_anything(
    asked: Asked, change: Callable[[dict[str, Any]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{MARKER}.py").write_text("def made(*arguments, **named):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Exception, match=r"request: |settings: |failed: "):
        answer(asked, change)
    assert MARKER not in sys.modules


def test_an_ordinary_request_is_answered(asked: Asked) -> None:
    reply = answer(asked, lambda fields: None)
    assert reply.has_content()
    assert encode(torch.zeros(1)).dtype == "float32"
