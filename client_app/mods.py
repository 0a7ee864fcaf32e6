"""flwr's mods that would not act here are refused: a privacy that somebody believes in and that is not there.

They look at messages of the type "train" and at arrays that are a whole model; here a request is "train.part", and what
comes back is one encoded difference. Such a mod would pass everything on as it is, and say nothing.
"""

from __future__ import annotations

from flwr.clientapp import ClientApp

_IDLE = frozenset({"secagg_mod", "secaggplus_mod", "fixedclipping_mod", "adaptiveclipping_mod", "LocalDpMod"})


def refuse_idle(app: ClientApp) -> ClientApp:
    """The app, if all of its mods act.

    Raises:
        TypeError: names those that would not.
    """
    mods = app._mods  # flwr has no public name for them; should it be another one day, nothing starts unchecked
    names = [getattr(mod, "__name__", type(mod).__name__) for mod in mods]
    idle = sorted(_IDLE & set(names))
    if idle:
        raise TypeError(
            f"{', '.join(idle)} would not act on Flotilla's messages, and nothing would be protected: leave it out; "
            "secure-aggregation hides single differences, dp-noise and dp-clip are central differential privacy"
        )
    return app
