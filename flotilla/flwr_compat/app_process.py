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
from importlib.machinery import ModuleSpec
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
        # Elsewhere a system's libraries do not outlive a fork: flwr starts Ray itself. A cluster's Ray is up already.
        if sys.platform == "linux" and "FLOTILLA_CLUSTER" not in os.environ:
            with contextlib.suppress(Exception):
                ahead = _beside("ray_ahead").RayAhead(int(cpus) or None, Path(os.environ["RAY_TMPDIR"]))
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
    if simulation:
        if ahead is None or not _is_up(ahead):
            # Of workers that Ray starts before it knows flwr's environment for them none would be used.
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        with contextlib.suppress(Exception):
            _beside("quick_simulation").be_quick()
        with contextlib.suppress(Exception):
            _beside("ray_arrays").once_in_store()
        _beside("ray_backend").survive()
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


def _is_up(ahead: Any) -> bool:
    """Let workers come from this process and make it Ray's driver; False where flwr has to start Ray."""
    with contextlib.suppress(Exception):
        ahead.offer_workers()
        return bool(ahead.connect())
    return False


def _import_ahead(modules: list[str]) -> None:
    """Import what flwr will import; what fails now fails then, where it is reported."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


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
