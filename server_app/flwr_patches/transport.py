"""Spare Flower's transfer a rest: look again soon for what is still under way.

A reply is at the SuperLink before its arrays are. Who looks often, as we do, often meets it in between, and then flwr
1.41 rests for a second, twice as long the next time, and up to ten, during which no other reply is fetched either. Here
it rests for a fiftieth of a second, and a tenth at most. How often it looks is left to the clock: an upload that stands
still is given up by the SuperLink. Where flwr's function looks different, nothing is done.
"""

from __future__ import annotations

from flwr.supercore.inflatable import inflatable_utils

_FIRST, _LONGEST = 0.02, 0.1  # seconds


def look_again_soon() -> bool:
    """Apply this to the process; returns whether it did."""
    ours = {"initial_backoff": _FIRST, "backoff_cap": _LONGEST, "max_tries_per_object": None}
    defaults = getattr(inflatable_utils.pull_objects, "__kwdefaults__", None) or {}
    if not ours.keys() <= defaults.keys():
        return False
    defaults.update(ours)
    return True
