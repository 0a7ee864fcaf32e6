"""How a worker on another machine proves that it can run an app's clients, and how a loss is told in a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Proof: TypeAlias = Callable[[], Callable[..., tuple[str, str]]]
_LONGEST = 200  # characters of a reason


class NotReady(RuntimeError):
    """A worker that cannot work, and why."""


def proof_of(module: str, config: Mapping[str, Any], marker: str) -> Proof:
    """What an actor does to prove itself: it answers with why it cannot work, or "", and with what its data are.

    It is called as a ClientApp is, so that the very process proves it that will train. Errors come back as text: their
    classes may be the app's, which a process without the app cannot read.

    Args:
        module: of the ClientApp.
        config: the run's configuration.
        marker: a file that must be seen; "" for none.
    """

    def load() -> Callable[..., tuple[str, str]]:
        def answer(**_: object) -> tuple[str, str]:
            import importlib
            import importlib.util
            from pathlib import Path

            try:
                importlib.import_module(module)
                ready = f"{module.rpartition('.')[0]}.ready"
                there = ready[0] != "." and importlib.util.find_spec(ready) is not None
                data = str(importlib.import_module(ready).ready(config)) if there else ""
            except Exception as error:
                return f"{type(error).__name__}: {error}", ""
            if marker and not Path(marker).exists():
                folder = Path(marker).parent
                return f"client-state = {folder}: it is not the folder that flotilla sees; allowed is a shared one", ""
            return "", data

        return answer

    return load


def reason_of(loss: BaseException) -> str:
    """Why an actor was lost, in a line: Ray's text begins with a table of what it was."""
    lines = [line.strip() for line in str(loss).splitlines()]
    said = [line for line in lines if line and not _is_row(line)]
    return one_line(" ".join(said)) or type(loss).__name__


def _is_row(line: str) -> bool:
    return line.partition(":")[0] in ("class_name", "actor_id", "pid", "name", "namespace", "ip")


def one_line(text: str) -> str:
    """A text without its line ends, and of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
