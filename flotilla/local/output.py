"""What the local engine says: flwr's log lines, in colour on a terminal only."""

from __future__ import annotations

import logging


def no_colours_into_pipes() -> None:
    """Take the colour codes off flwr's log lines where they do not go to a terminal."""
    for handler in logging.getLogger("flwr").handlers:
        stream = getattr(handler, "stream", None)
        if hasattr(handler, "colored") and stream is not None and not stream.isatty():
            handler.colored = False
