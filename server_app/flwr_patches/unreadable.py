"""One reply that flwr cannot read costs that reply, and not the run.

flwr 1.41 makes messages of what nodes pushed while it fetches them, several at a time; the SuperLink has forgotten them
by then. So an array whose description is no JSON, sent by one node, raises in the middle of a round and takes the other
replies of the batch along. Here a reply is made while its objects are fetched, where flwr turns a failure into an error
reply to the right request. Where flwr's module looks different, nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.superlink.grid import http_grid


def refuse_unreadable() -> bool:
    """Apply this to the process; returns whether it did."""
    pull: Callable[..., dict[str, bytes]] | None = getattr(http_grid, "pull_objects", None)
    inflate: Callable[..., Any] | None = getattr(http_grid, "inflate_object_from_contents", None)
    if pull is None or inflate is None or hasattr(pull, "reads"):
        return False
    made: dict[str, Message] = {}

    def pull_objects(object_ids: list[str], *arguments: Any, **named: Any) -> dict[str, bytes]:
        contents = pull(object_ids, *arguments, **named)
        name = object_ids[-1]  # children come first
        try:
            message = inflate(name, contents)
        except Exception as error:  # whatever a node pushed
            raise ObjectPullError(name, f"it cannot be read ({type(error).__name__})") from None
        if not isinstance(message, Message):
            raise ObjectPullError(name, "it is no message")
        made[name] = message
        return contents

    def inflate_object_from_contents(object_id: str, contents: dict[str, bytes], **named: Any) -> Any:
        return made.pop(object_id, None) or inflate(object_id, contents, **named)

    pull_objects.reads = True  # type: ignore[attr-defined]
    vars(http_grid).update(pull_objects=pull_objects, inflate_object_from_contents=inflate_object_from_contents)
    return True
