"""The help of arguments, which typer 0.20 loses under click 8.5.

typer sets it and then calls click's constructor, which since 8.5 has a `help` of its own and sets it to None. What the
declarations say is put back here. Where it is not lost this changes nothing.
"""

from __future__ import annotations

from typing import get_type_hints

import click
import typer
from typer.models import ArgumentInfo


def with_argument_help(app: typer.Typer) -> click.Command:
    """Make the command of an app, with the help of its commands' arguments."""
    group = typer.main.get_command(app)
    commands = group.commands.values() if isinstance(group, click.Group) else [group]
    for command in commands:
        callback = getattr(command.callback, "__wrapped__", None)
        hints = get_type_hints(callback, include_extras=True) if callback else {}
        for param in command.params:
            for told in getattr(hints.get(param.name or ""), "__metadata__", ()):
                if isinstance(told, ArgumentInfo) and getattr(param, "help", None) is None:
                    param.help = told.help  # type: ignore[attr-defined, unused-ignore]
    return group
