"""The process that runs an app on the server's side; started by `flotilla.superlink.superlink`, never imported.

It is `flwr-simulation`, or `flwr-serverapp` in a deployment, with a head start: the slow imports are done and Ray is up
while the SuperLink starts. Two lines come on standard input: what the run's code is, as JSON (`_Told`), which is
unpacked and imported at once, and then the task's token. Nothing of ours is imported here: the apps must come from the
bundle.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

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


class _Told(TypedDict):
    """What the run's code is.

    Attributes:
        bundle: file with Flower's bundle.
        ready: file to make when only the token is missing.
        originals: folders with the files that went into it.
        clients, server: modules of the app to import ahead; none of an app that is not known to bear it.
    """

    bundle: str
    ready: str
    originals: list[str]
    clients: list[str]
    server: list[str]


def main() -> None:
    """Import, wait for the token, run."""
    task, *arguments = sys.argv[1:]
    simulation = task == "flwr-simulation"
    ahead = None
    if simulation:
        (cpus, *arguments) = arguments
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # as flwr's command does
        with contextlib.suppress(Exception):  # flwr starts Ray itself
            home = Path(os.environ["RAY_TMPDIR"])
            ahead = _beside("ray_ahead").RayAhead(int(cpus) or None, home)
    (place, name), (runner, run_name), flusher = _COMMANDS[task]
    command: Callable[[], None] = getattr(importlib.import_module(place), name)
    with contextlib.suppress(ImportError):
        importlib.import_module("torch")

    line = sys.stdin.readline()
    if not line:  # flotilla ended before there was a run
        return
    told: _Told = json.loads(line)
    code = _beside("bundle_code")
    originals = [Path(folder) for folder in told["originals"]]
    folder = code.unpack(Path(told["bundle"]), originals)
    sys.path.insert(0, str(folder))  # where flwr puts it, too
    _import_ahead(told["clients"])
    if ahead is not None:
        with contextlib.suppress(Exception):
            ahead.offer_workers()
            ahead.connect()
    if simulation:
        with contextlib.suppress(Exception):
            _beside("quick_simulation").be_quick()
    _import_ahead(told["server"])
    Path(told["ready"]).touch()

    token = sys.stdin.readline().strip()
    if not token:
        return

    # flotilla reads this process's output itself; waiting a second for the upload of the log would be for nobody.
    setattr(importlib.import_module(flusher), "flush_logs", lambda *_, **__: True)  # noqa: B010 - not theirs to export
    module = importlib.import_module(runner)
    setattr(module, run_name, _failing(getattr(module, run_name)))
    sys.argv = [task, *arguments, "--token", token]
    status = 0
    try:
        command()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    with contextlib.suppress(OSError):
        code.keep_bytecode(folder, originals)
    # The result is delivered and flotilla clears up what is left: taking torch and ray apart would only cost seconds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _beside(name: str) -> Any:
    """A module of this folder, by its path: the package that it belongs to must come from the bundle."""
    spec = importlib.util.spec_from_file_location(f"_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None  # a file that is there
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import_ahead(modules: list[str]) -> None:
    """Import what flwr will import; what fails now fails then, where it is reported."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


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
