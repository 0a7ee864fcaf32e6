"""A deployment's messages in fewer objects (`protocol.packing`): each is a request, at every station of its way.

The grid of a simulation moves no objects, and is left alone. Whoever uses the grid sees whole messages: requests are
packed while they are pushed, replies unpacked when they are pulled.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol import WireError
from protocol.packing import PACKED, Packer, unpack
from server_app.flwr_patches.deployed import is_deployed


def pack_messages(grid: Grid) -> bool:
    """Apply this to a deployment's grid; returns whether it did."""
    if not is_deployed(grid):
        return False
    push, pull = grid.push_messages, grid.pull_messages

    def push_messages(messages: Iterable[Message]) -> Iterable[str]:
        given, packer = list(messages), Packer()
        contents = [message.content if message.has_content() else None for message in given]
        try:
            for message, content in zip(given, contents, strict=True):
                if content is not None:
                    message.content = packer.pack(content)
            return list(push(given))
        finally:
            for message, content in zip(given, contents, strict=True):
                if content is not None:
                    message.content = content

    def pull_messages(message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(pull(message_ids))
        for message in found:
            if message.has_content() and PACKED in message.content:
                with suppress(WireError):  # it stays what it is, and is refused as such
                    content: RecordDict = unpack(message.content)
                    message.content = content
        return found

    vars(grid).update(push_messages=push_messages, pull_messages=pull_messages)
    return True
