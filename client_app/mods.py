"""flwr's mods that would not act here are refused: a privacy that somebody believes in and that is not there.

They look at messages of the type "train" and at arrays that are a whole model; here a request is "train.part", and what
comes back is one encoded difference. Such a mod would pass everything on as it is, and say nothing.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from flwr.clientapp import ClientApp

# Those of flwr's that only look at what passes. Any other one of flwr's would change it, and does not find it.
_LOOK = frozenset({"message_size_mod", "arrays_size_mod", "parameters_size_mod"})


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
