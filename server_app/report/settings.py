"""What was set: first what differs from the defaults, then the rest, and the command that runs it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from server_app.report.tables import folded, pairs, section
from server_app.report.told import Told

_PLACES = ("run-dir", "resume", "client-state")  # where a run was, which another one is not


def changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not what this version of Flotilla would take by itself."""
    from server_app.config.catalogue import defaults  # of every method, which a report need not have loaded

    usual = defaults()
    return {
        key: value
        for key, value in config.items()
        if key not in _PLACES and (key not in usual or usual[key] != value or type(usual[key]) is not type(value))
    }


def command(config: Mapping[str, Any]) -> str:
    """What runs the same again."""
    told = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changed(config).items())
    return "flotilla run" + (f" --run-config {shlex.quote(told)}" if told else "")


def settings(told: Told) -> str:
    """The sections of the page."""
    if not told.config and not told.surroundings:
        return ""
    differ = changed(told.config)
    rest = {key: value for key, value in told.config.items() if key not in differ}
    first = pairs(differ) if differ else "<p class=note>Nothing: every setting has its default.</p>"
    again = f"<h3 style='margin-top:1.4rem'>Run it again</h3><pre>{escape(command(told.config))}</pre>"
    return section(
        "Changed from the defaults",
        (first + again if told.config else "")
        + folded(f"{len(rest)} settings as they are by default", pairs(rest))
        + folded("Versions, machine and code", pairs(told.surroundings)),
    )
