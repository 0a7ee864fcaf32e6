"""`flwr run` without its traps: start everything privately, pass the output on, answer with the run's own exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TextIO

from flotilla.settings import Settings
from flotilla.superlink.cluster import Cluster
from flotilla.superlink.output import is_noise, last_error, plain
from flotilla.superlink.processes import Guard
from flotilla.superlink.superlink import SuperLink, SuperLinkError, environment

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PREFIX = "flotilla-"


class Stopped(BaseException):
    """The user wants the run to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


def run_flower(
    check: Callable[[], Settings],
    *,
    processes: int | None = None,
    gpus_per_client: float | None = None,
    cluster: Cluster | None = None,
    verbose: bool = False,
) -> int:
    """Run a Flower app through a private SuperLink and Flower's simulation.

    Args:
        check: says what to run, from `flotilla.settings.prepare`, while SuperLink and simulation are starting; what it
            raises goes through, and nothing is left of them.
        processes: clients that train at the same time; None is one per CPU core.
        gpus_per_client: share of a GPU per client; None is 0.25 where there is a GPU.
        cluster: Ray cluster that runs the clients; None: this machine.
        verbose: show also what Flower and Ray say.

    Returns:
        0 when the run finished, 1 when it failed, 128 + the signal's number when it was stopped.
    """

    def of_a_cluster(home: Path, env: Mapping[str, str], started: Callable[[int], None]) -> SuperLink:
        assert cluster is not None
        told = cluster.environment(env, processes=processes, gpus_per_client=gpus_per_client)
        return SuperLink(home, told, started)

    def checked() -> tuple[Settings, Mapping[str, object]]:
        settings = check()
        if cluster is not None:
            return settings, federation(settings.nodes, None, 0.0)
        return settings, federation(settings.nodes, processes, gpus_per_client)

    return _run(of_a_cluster if cluster else partial(SuperLink, cpus=processes), checked, verbose=verbose)


def run_on(
    make: Callable[[Path, Mapping[str, str], Callable[[int], None]], SuperLink],
    settings: Settings,
    federation: Mapping[str, object],
    *,
    verbose: bool,
) -> int:
    """Run an app on a SuperLink of its own, pass its output on and leave nothing behind.

    Args:
        make: starts the SuperLink; its arguments are those of `SuperLink`.
        settings: from `flotilla.settings.prepare`.
        federation: from `federation`; empty in a deployment.
        verbose: show also what Flower says.

    Returns:
        As `run_flower`.
    """
    return _run(make, lambda: (settings, federation), verbose=verbose)


def _run(
    make: Callable[[Path, Mapping[str, str], Callable[[int], None]], SuperLink],
    check: Callable[[], tuple[Settings, Mapping[str, object]]],
    *,
    verbose: bool,
) -> int:
    home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_short_tempdir()))
    env = environment(home)
    log = home / "run.log"
    superlink: SuperLink | None = None
    code = 1
    with _signals_raise() as no_more_signals:
        guard = Guard(home)
        try:
            superlink = make(home, env, guard.watch)
            settings, federation = check()
            superlink.submit(settings.app_dir, settings.overrides, federation, settings.code)
            with log.open("w", encoding="utf-8") as kept:
                _pass_on(superlink.app, kept, verbose=verbose)
            code = _verdict(superlink, settings, log)
        except Stopped as stopped:
            no_more_signals()
            print(f"flotilla: {stopped}: stopping the run", file=sys.stderr, flush=True)
            code = 128 + stopped.signum
            if superlink is not None:
                _stop(superlink)
        except SuperLinkError as error:
            print(f"flotilla: {error}", file=sys.stderr)
        finally:
            no_more_signals()
            if superlink is not None:
                superlink.close()
                superlink.process.kill()  # its state goes with it and is read: nothing to wait for
            guard.close()
            if superlink is not None:
                _reap(superlink)
    return code


def federation(nodes: int, processes: int | None, gpus_per_client: float | None) -> dict[str, int | float]:
    """Say what `--federation-config` would.

    A client takes one CPU; how many train at once is how many CPUs Ray believes in, so `processes` may also be more
    than there are (which overlaps the copying of one client's weights with another's training).
    """
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) if gpus_per_client is None else 0
    share = gpus_per_client if gpus_per_client is not None else (0.25 if gpus else 0.0)
    config: dict[str, int | float] = {
        "num_supernodes": nodes,
        "client_resources_num_cpus": 1,
        "client_resources_num_gpus": share,
    }
    if processes is not None:
        config["init_args_num_cpus"] = processes
    return config


def exit_code(status: str) -> int:
    """Map a run's status in Flower's words to an exit code; only one of them is success."""
    return 0 if status == "finished:completed" else 1


def _short_tempdir() -> str:
    """Where temporary files go; Ray's sockets below it must stay under 108 characters."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 16 else "/tmp"


def _pass_on(app: subprocess.Popen[bytes], kept: TextIO, *, verbose: bool) -> None:
    """Show a run's output as it comes, line by line, and keep all of it."""
    assert app.stdout is not None
    colours = sys.stdout.isatty()
    for raw in app.stdout:
        line = raw.decode(errors="replace").rstrip("\n")
        kept.write(plain(line) + "\n")
        if verbose or not is_noise(line):
            with suppress(BrokenPipeError):  # `flotilla run | head` goes on
                print(line if colours else plain(line), flush=True)
    app.wait()


def _verdict(superlink: SuperLink, settings: Settings, log: Path) -> int:
    """Ask the SuperLink how the run ended; on failure keep the log and say why in one line."""
    try:
        status = superlink.status()
    except Exception as error:  # the SuperLink itself may have died; anything else than a clear yes is a failure
        status = f"unknown ({type(error).__name__})"
    if exit_code(status) == 0:
        return 0
    with log.open(encoding="utf-8") as lines:
        reason = last_error(lines)
    if reason is None:
        reason = f"its app process ended with {superlink.app.returncode}; Flower says {status}"
    kept = settings.log
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("w", encoding="utf-8") as file:
            for path in (log, *superlink.logs()):
                file.write(f"==> {path.stem} <==\n{path.read_text(encoding='utf-8', errors='replace')}\n")
        where = f"log kept in {kept}"
    except OSError as error:
        where = f"the log could not be kept: {error}"
    print(f"flotilla: the run failed: {reason} ({where})", file=sys.stderr, flush=True)
    return 1


def _stop(superlink: SuperLink) -> None:
    """Tell Flower, then the app; the sweep that follows does not take no for an answer."""
    with suppress(Exception):
        superlink.stop_run()
    superlink.app.terminate()
    with suppress(subprocess.TimeoutExpired):
        superlink.app.wait(timeout=1.0)


def _reap(superlink: SuperLink) -> None:
    """Collect our children and close the pipes."""
    for process in (superlink.app, superlink.process):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5.0)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


@contextmanager
def _signals_raise() -> Iterator[Callable[[], None]]:
    """Turn the first stop signal into `Stopped`; yields a function after which they are ignored (cleaning up)."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        ignore()
        raise Stopped(signum)

    def ignore() -> None:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)

    before = {one: signal.signal(one, stop) for one in _SIGNALS}
    try:
        yield ignore
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
