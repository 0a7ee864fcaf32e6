"""The process that runs an app on the server's side; started by `flotilla.superlink.superlink`, never imported.

It is `flwr-simulation`, or `flwr-serverapp` in a deployment, with a head start: the slow imports are done while the
SuperLink starts, then one line on standard input brings the task's token. Nothing of ours is imported here: the apps
must come from the bundle.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

# What Flower calls a task → module and name of its command, module and name by which that runs the ServerApp, and the
# module that waits for the log's upload. Modules by name: packages show functions where some of them are.
_COMMANDS = {
    "flwr-simulation": (
        ("flwr.simulation.app", "flwr_simulation"),
        ("flwr.simulation.run_simulation", "_run"),
        "flwr.simulation.app",
    ),
    "flwr-serverapp": (
        ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp"),
        ("flwr.superlink.runtime.run_serverapp", "run_"),
        "flwr.superlink.runtime.run_serverapp",
    ),
}


def main() -> None:
    """Import, wait for the token, run."""
    task, *arguments = sys.argv[1:]
    (place, name), (runner, run_name), flusher = _COMMANDS[task]
    command: Callable[[], None] = getattr(importlib.import_module(place), name)
    if task == "flwr-simulation":
        _beside("ray_backend").survive()
    with contextlib.suppress(ImportError):
        import torch

        del torch

    token = sys.stdin.readline().strip()
    if not token:  # flotilla ended before there was a run
        return

    # flotilla reads this process's output itself; waiting a second for the upload of the log would be for nobody.
    setattr(importlib.import_module(flusher), "flush_logs", lambda *_, **__: True)  # noqa: B010 - not theirs to export
    module = importlib.import_module(runner)
    setattr(module, run_name, _failing(getattr(module, run_name)))
    sys.argv = [task, *arguments, "--token", token]
    code = 0
    try:
        command()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    # The result is delivered and flotilla clears up what is left: taking torch and ray apart would only cost seconds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _beside(name: str) -> Any:
    """A module of this folder, under another name: the package that it belongs to must come from the bundle."""
    package = "_flotilla_programs"
    if package not in sys.modules:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(Path(__file__).parent)]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{name}")


def _failing(run_serverapp: Callable[..., Any]) -> Callable[..., Any]:
    """Make SystemExit an error: it ends a thread silently, and flwr would call the run completed."""

    def run_or_fail(*args: Any, **kwargs: Any) -> Any:
        try:
            return run_serverapp(*args, **kwargs)
        except SystemExit as error:
            raise RuntimeError(f"the ServerApp called sys.exit({error.code!r})") from error

    return run_or_fail


if __name__ == "__main__":
    main()
