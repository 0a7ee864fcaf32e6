"""What happens around every message that a ClientApp answers: mods, ours, and those of Flower's that are refused.

Flower's own mods look at messages of the type "train" and at arrays that are a whole model; here a request is
"train.part", and what comes back is one encoded difference. Such a mod would pass everything on as it is, and say
nothing: a privacy that somebody believes in and that is not there.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from logging import ERROR
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common import log

from client_app.allowed import allowed
from client_app.errors import told
from models.registry import FOLLOWED
from protocol.packing import PACKED, pack, unpack
from protocol.reply_room import KeptRoom, replies_in

Next = Callable[[Message, Context], Message]

# In the environment of a process whose engine has copied a reply before it asks for the next (`ray_arrays`).
REPLIES_ARE_COPIED = "FLOTILLA_REPLIES_ARE_COPIED"
# Those of flwr's that only look at what passes. Any other one of flwr's would change it, and does not find it.
_LOOK = frozenset({"message_size_mod", "arrays_size_mod", "parameters_size_mod"})


def packed_on_demand(message: Message, context: Context, call_next: Next) -> Message:
    """Answer a packed request with a packed reply."""
    if not message.has_content() or PACKED not in message.content:
        return call_next(message, context)
    message.content = unpack(message.content)
    reply = call_next(message, context)
    if reply.has_content():
        reply.content = pack(reply.content)
    return reply


_KEPT = KeptRoom()


def in_kept_memory(message: Message, context: Context, call_next: Next) -> Message:
    """Write the reply into memory of the last one, where the engine says that it has copied that."""
    if os.environ.get(REPLIES_ARE_COPIED) is None:
        return call_next(message, context)
    _KEPT.clear()
    with replies_in(_KEPT):
        return call_next(message, context)


def without_details(message: Message, context: Context, call_next: Next) -> Message:
    """Say of an error no more than `told`."""
    try:
        return call_next(message, context)
    except Exception as error:
        log(ERROR, "%s failed", message.metadata.message_type, exc_info=error)
        raise told(error) from None


def only_allowed(message: Message, context: Context, call_next: Next) -> Message:
    """Follow the import paths that this device allows, and no others."""
    before = FOLLOWED.set(tuple(allowed(context)))
    try:
        return call_next(message, context)
    finally:
        FOLLOWED.reset(before)


# Not of an app that is somebody else's (`serve`), whose own mods may want bytes, or keep a reply.
OURS: tuple[Callable[[Message, Context, Next], Message], ...] = (in_kept_memory,)
MODS: tuple[Callable[[Message, Context, Next], Message], ...] = (packed_on_demand, without_details, only_allowed)


def refuse_idle(app: ClientApp) -> ClientApp:
    """The app, if all of its mods act.

    Raises:
        TypeError: names those that would not.
    """
    mods = app._mods  # flwr has no public name for them; should it be another one day, nothing starts unchecked
    idle = sorted({name for mod in mods if (name := _flowers(mod)) and name not in _LOOK})
    if idle:
        raise TypeError(
            f"{', '.join(idle)} would not act on Flotilla's messages, and nothing would be protected: leave it out; "
            "secure-aggregation hides single differences, dp-noise and dp-clip are central differential privacy"
        )
    return app


def _flowers(mod: Any) -> str:
    """The name of flwr's mod that this is, however it is wrapped or derived; "" if it is none of flwr's."""
    while isinstance(mod, partial):
        mod = mod.func
    mod = inspect.unwrap(mod)
    kinds = [mod] if inspect.isroutine(mod) else type(mod).__mro__
    return next((kind.__name__ for kind in kinds if str(kind.__module__).partition(".")[0] == "flwr"), "")
