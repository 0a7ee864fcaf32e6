"""Mods of the ClientApp: ours act, and flwr's for privacy, which would not act on our messages, are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import (
    LocalDpMod,
    adaptiveclipping_mod,
    arrays_size_mod,
    fixedclipping_mod,
    message_size_mod,
)

from client_app.mods import REPLIES_ARE_COPIED, in_kept_memory, packed_on_demand, refuse_idle
from client_app.serve import serve
from flotilla.flwr_compat.identity import assume_identity
from protocol.packing import PACKED, Packer, unpack
from protocol.reply_room import REPLY_ROOM, ReplyRoom

IDLE: list[Any] = [secaggplus_mod, fixedclipping_mod, adaptiveclipping_mod, LocalDpMod(1.0, 1.0, 1.0, 1e-5)]


@pytest.mark.parametrize("mod", IDLE, ids=["secaggplus", "fixed clipping", "adaptive clipping", "local DP"])
def test_a_mod_that_would_not_act_is_refused(mod: Any) -> None:
    with pytest.raises(TypeError, match="would not act") as caught:
        refuse_idle(ClientApp(mods=[message_size_mod, mod]))
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="would not act"):
        serve(ClientApp(mods=[mod]), lambda module, task, context: 0.0, examples=lambda context: 1)


def test_mods_that_only_look_are_not() -> None:
    app = ClientApp(mods=[message_size_mod, arrays_size_mod])
    assert refuse_idle(app) is app


def test_an_app_that_does_not_say_its_mods_does_not_start() -> None:
    app = ClientApp()
    del app._mods
    with pytest.raises(AttributeError, match="_mods"):
        refuse_idle(app)


def test_a_packed_request_has_a_packed_reply() -> None:
    assume_identity()
    context, seen = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={}), []
    arrays = {"arrays": ArrayRecord({"state": Array(np.arange(6, dtype=np.float32))})}

    def handler(message: Message, _: Context) -> Message:
        seen.append(message.content)
        return Message(RecordDict({**arrays, "reply": ConfigRecord({"n": 1})}), reply_to=message)

    for packed in (False, True):
        content = RecordDict({**arrays, "request": ConfigRecord({"n": 2})})
        asked = Message(Packer().pack(content) if packed else content, dst_node_id=1, message_type="train.part")
        asked.metadata.__dict__["_message_id"] = "m"
        answer = packed_on_demand(asked, context, handler)
        assert (PACKED in answer.content) is packed
        plain = unpack(answer.content) if packed else answer.content
        assert plain == RecordDict({**arrays, "reply": ConfigRecord({"n": 1})})
    assert seen[0] == seen[1]


def test_replies_lie_in_kept_memory_only_where_the_engine_copies_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assume_identity()
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    rooms: list[ReplyRoom | None] = []

    def handler(message: Message, _: Context) -> Message:
        rooms.append(REPLY_ROOM.get())
        if rooms[-1] is not None:
            assert rooms[-1].used == 0
            rooms[-1].take(10)
        return Message(RecordDict(), reply_to=message)

    def ask() -> None:
        in_kept_memory(Message(RecordDict(), dst_node_id=1, message_type="train.part"), context, handler)

    monkeypatch.delenv(REPLIES_ARE_COPIED, raising=False)
    ask()
    monkeypatch.setenv(REPLIES_ARE_COPIED, "1")
    ask()
    ask()
    assert rooms[0] is None
    assert rooms[1] is rooms[2] is not None
    assert REPLY_ROOM.get() is None
