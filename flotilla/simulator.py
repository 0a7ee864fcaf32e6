"""The process in which Flower's simulation runs; started by `flotilla.superlink`, never imported.

It is `flwr-simulation` with a head start: the slow imports are done while the SuperLink starts, then one line on
standard input brings the task's token. Nothing of ours is imported here: the apps must come from the bundle.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any


def main() -> None:
    """Import, wait for the token, run."""
    import flwr.server.run_serverapp
    import flwr.simulation.app as simulation
    from flwr.server.superlink.fleet.vce.backend import raybackend

    del raybackend  # only to have ray imported
    with contextlib.suppress(ImportError):
        import torch

        del torch

    token = sys.stdin.readline().strip()
    if not token:  # flotilla ended before there was a run
        return

    # flotilla reads this process's output itself; waiting a second for the upload of the log would be for nobody.
    setattr(simulation, "flush_logs", lambda *_, **__: True)  # noqa: B010 - it is not theirs to export

    # By name: the package shows a function where this module is.
    runner = importlib.import_module("flwr.simulation.run_simulation")
    run_serverapp = flwr.server.run_serverapp.run

    def run_or_fail(*args: Any, **kwargs: Any) -> Any:
        # SystemExit ends a thread silently, and flwr would call the run completed.
        try:
            return run_serverapp(*args, **kwargs)
        except SystemExit as error:
            raise RuntimeError(f"the ServerApp called sys.exit({error.code!r})") from error

    runner._run = run_or_fail  # type: ignore[attr-defined]
    sys.argv = ["flwr-simulation", *sys.argv[1:], "--token", token]
    code = 0
    try:
        simulation.flwr_simulation()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    # The result is delivered and flotilla clears up what is left: taking torch and ray apart would only cost seconds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
