"""How a command says that it does nothing, and why."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer


def refuse(why: object) -> NoReturn:
    """Say in one line, on stderr, what is wrong with what was asked for, and end with code 2."""
    print(f"flotilla: {why}", file=sys.stderr)
    raise typer.Exit(2)
