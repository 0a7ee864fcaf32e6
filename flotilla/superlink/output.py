"""What a run says: the app's own lines pass, the engine's chatter does not."""

from __future__ import annotations

import re
from collections.abc import Iterable

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# Said at every start or stop by flwr 1.41 and Ray 2.55, without news for the user.
_NOISE = re.compile(
    "|".join(
        (
            r"Starting Flower Simulation$",
            r"Since flwr 1\.32, default simulated SuperNodes",
            r"Federation `.*simulated SuperNodes\)",
            r"To change federation size, use",
            r"flwr federation simulation-config",
            r"Started a local Ray instance",
            r"Calling ray\.init\(\) again",
            r"Manually terminating ClientAppActor",
            r"Task stopped by user\.$",
            r"Ray will no longer override accelerator visible devices",
            r"^\s+warnings\.warn\($",
            r"Successfully installed .* to ",
            r"installed in .*/apps/",
            r"\[repeated \d+x across cluster\]",
            r"Failed to establish connection to the metrics exporter agent",
            r"^(DEBUG|INFO|WARNING)\s*:\s*$",
            # Of a node that is gone; which worker was lost is said in a line of ours.
            r"^\(raylet\) (Raylet is terminated|The node with node id)",
            r"^\s+\(2\) raylet has lagging heartbeats",
            r"^\s+\[state-dump\]",
            r"^\s+\[[-\d:, ]+ \w \d+ \d+\] \(raylet\)",
        )
    )
)

# The outermost errors flwr wraps around the one that matters.
_WRAPPERS = ("An error was encountered. Ending simulation.", "Simulation Runtime crashed.")
_ERROR = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?:: (.*))?$")


def plain(line: str) -> str:
    """Strip a line of colours and of its end."""
    return _COLOUR.sub("", line).rstrip("\r\n")


def is_noise(line: str) -> bool:
    """Whether a line is one that flwr or Ray says in every run."""
    return bool(_NOISE.search(plain(line)))


def last_error(lines: Iterable[str]) -> str | None:
    """Find the last traceback's own last line, such as `RuntimeError: boom`, looking through flwr's wrappers."""
    found: str | None = None
    inside = False
    for raw in lines:
        line = plain(raw)
        if line.endswith("Traceback (most recent call last):"):
            inside = True
        elif inside and line and not line[0].isspace():
            inside = False
            match = _ERROR.match(line)
            if match and match[2] not in _WRAPPERS:
                found = line
    return found
