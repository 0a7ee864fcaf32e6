"""One private Flower SuperLink and the one run in it.

`flwr run` leaves a SuperLink behind that keeps its first environment and directory for every later run. Here each run
has its own: a free port, its own FLWR_HOME, state that goes with it. Flotilla also takes the SuperExec's part (Flower's
`--isolation process`): it claims the run's task and hands it to an app process that has been importing in the meantime,
so the run's output comes straight through a pipe and its end is seen at once.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

from flotilla.flwr_compat.bundle import BundleError, build_bundle
from flotilla.flwr_compat.control import Control, open_control
from flotilla.flwr_compat.runtime import claim_task
from flotilla.own_app import code_beside, components, runs_ours
from flotilla.superlink.cluster import ANNOUNCED
from flotilla.user_code import UserCode

PROGRAMS = Path(__file__).parents[1] / "flwr_compat"  # which are started by path and never imported
_START_LIMIT = 180.0  # seconds; 1.2 on an idle machine, a minute on one that many others use


class SuperLinkError(RuntimeError):
    """Flower itself could not be started or asked; one line."""


def environment(home: Path) -> dict[str, str]:
    """Make the environment of everything a run starts.

    What the user has set wins where it is a matter of taste; what keeps runs apart is not.
    """
    env = {
        "PYTHONUNBUFFERED": "1",
        # glibc gives every block above 128 KB back at once, and fetching the pages again costs about as much as the
        # copying itself (docs/flower.md has the measurement).
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        # Messages up to this size go from process to process: Ray's object store, which takes what is above 100 KB
        # otherwise, costs more than the copies that it saves (docs/flower.md).
        "RAY_max_direct_call_object_size": str(4 << 20),
        # Ray takes back what nobody needs once a second, or a hundred at a time. Until then each reply of megabytes
        # lies on pages that its worker has not touched yet, which costs as much as copying it (docs/flower.md).
        "RAY_free_objects_batch_size": "1",
        **os.environ,
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
    }
    for name in ("RAY_ADDRESS", ANNOUNCED):
        env.pop(name, None)  # a cluster of someone else's would run our clients
    return env


def free_port() -> int:
    """Find a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SuperLink:
    """The SuperLink process of one run, and the process that runs the app: the whole simulation.

    Args:
        home: a private empty folder; its processes work in `home/cwd`, which stays empty, because Ray's workers put
            that directory before the app's bundle on their path.
        env: from `environment`.
        started: told the process id of every process started; each leads a session of its own.
        cpus: how many CPUs Ray is to believe in; None: as many as there are.

    Attributes:
        process: the SuperLink.
        app: the process that runs the app; its output is the run's.
        root: certificate that vouches for the SuperLink; None is a SuperLink without TLS.
    """

    root: Path | None = None
    task = "flwr-simulation"  # in Flower's words; flotilla/flwr_compat/app_process.py knows them too

    def __init__(
        self, home: Path, env: Mapping[str, str], started: Callable[[int], None], *, cpus: int | None = None
    ) -> None:
        self._home, self._env, self._started, self._cpus = home, dict(env), started, cpus
        self._cwd = home / "cwd"
        self._cwd.mkdir()
        (home / "flwr").mkdir()
        self.log, self._ready = home / "superlink.log", home / "ready"
        self.port = free_port()
        self._env["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"] = str(self.port)
        self._run_id: int | None = None
        self.process = self._start_superlink()
        self.app = self._start_app()

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return f"127.0.0.1:{self.port}"

    def _program(self) -> list[str]:
        """What is started as the SuperLink."""
        return [script("flower-superlink")]

    def _options(self) -> list[str]:
        """What the SuperLink is told beside where it listens."""
        return ["--insecure", "--simulation"]

    def _app_options(self) -> list[str]:
        """What `app_process` is told before it is told of a run."""
        return [str(self._cpus or 0)]

    def _start_superlink(self) -> subprocess.Popen[bytes]:
        command = [*self._program(), *self._options(), "--isolation", "process"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--disable-runtime-dependency-installation"]
        with self.log.open("ab") as log:
            return self._spawn(command, stdin=subprocess.DEVNULL, stdout=log)

    def _start_app(self) -> subprocess.Popen[bytes]:
        program = str(PROGRAMS / "app_process.py")
        command = [sys.executable, "-P", program, self.task, *self._app_options()]
        command += ["--runtime-api-address", self.address]
        command += ["--root-certificates", str(self.root)] if self.root else ["--insecure"]
        command += ["--parent-pid", str(os.getpid())]
        return self._spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _spawn(
        self, command: list[str], *, stdin: int, stdout: int | IO[bytes], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal must reach flotilla only, which then ends things in order.
        process = subprocess.Popen(
            command,
            cwd=self._cwd,
            env=env or self._env,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started(process.pid)
        return process

    def wait_ready(self) -> None:
        """Wait until the SuperLink answers."""
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                tail = self.log.read_text(errors="replace").strip().splitlines()[-1:]
                raise SuperLinkError(f"the SuperLink ended with {self.process.returncode}: {''.join(tail)}")
            if healthy(self.address, self.root):
                return
            time.sleep(0.02)
        raise SuperLinkError(f"the SuperLink did not answer within {_START_LIMIT:.0f} s")

    def submit(
        self,
        app_dir: Path,
        overrides: Mapping[str, object],
        federation: Mapping[str, object],
        code: UserCode = UserCode(),  # noqa: B008 - frozen
    ) -> int:
        """Send the app's bundle, start its run and hand it to the app process.

        Args:
            app_dir: the Flower app's folder.
            code: what goes with the run beside the app.
            overrides: settings that differ from the app's own.
            federation: what `--federation-config` takes, with underscores: `num_supernodes`, …; of a simulation only.

        Returns:
            The run's id.

        Raises:
            SuperLinkError: the app was refused.
        """
        try:
            bundle = build_bundle(app_dir, {**code_beside(app_dir), **code.files()}, code.added_to)
        except BundleError as error:
            raise SuperLinkError(str(error)) from error
        self._tell(json.dumps(self._code(bundle, app_dir, code)))
        self.wait_ready()
        with self.control() as control:
            self._run_id = control.start_run(bundle, overrides, federation)
        if self._run_id is None:
            raise SuperLinkError("Flower refused the run")
        self._wait_for_app()  # a claimed task that nobody works on for half a minute is taken back
        token = claim_task(self.address, self.root, self.task)
        if not token:
            raise SuperLinkError("Flower started the run but has no task for it")
        self._tell(token)
        return self._run_id

    def _wait_for_app(self) -> None:
        """Wait until the app process can begin, or has ended, of which its output says why."""
        deadline = time.monotonic() + _START_LIMIT
        while not self._ready.exists() and self.app.poll() is None:
            if time.monotonic() > deadline:
                raise SuperLinkError(f"the app process was not ready within {_START_LIMIT:.0f} s")
            time.sleep(0.01)

    def _tell(self, line: str) -> None:
        """Write a line to the app process."""
        assert self.app.stdin is not None
        with suppress(BrokenPipeError):  # it has died; its output says why
            self.app.stdin.write(f"{line}\n".encode())
            self.app.stdin.flush()

    def _code(self, bundle: bytes, app_dir: Path, code: UserCode) -> dict[str, str | list[str]]:
        """What `app_process` is told of the run's code."""
        file = self._home / "app.fab"
        file.write_bytes(bundle)
        originals = dict.fromkeys([app_dir, PROGRAMS.parents[1], *(path.parent for path in code.packages.values())])
        server, client = components(app_dir) if runs_ours(app_dir) else ("", "")
        return {
            "bundle": str(file),
            "ready": str(self._ready),
            "originals": [str(folder) for folder in originals],
            "clients": [client.partition(":")[0]] if client and self.task == SuperLink.task else [],
            "server": [server.partition(":")[0]] if server else [],
        }

    def status(self) -> str:
        """Ask for the run's status as `flwr ls` shows it, `finished:completed` being the good one."""
        if self._run_id is None:
            return "not started"
        with self.control() as control:
            return control.status(self._run_id)

    def stop_run(self) -> None:
        """Stop the run as `flwr stop` does."""
        if self._run_id is not None:
            with self.control() as control:
                control.stop(self._run_id)

    def logs(self) -> list[Path]:
        """Logs worth keeping when the run has failed, beside what the app says."""
        return []

    def close(self) -> None:
        """Get ready for the end: from now on whatever dies is meant to."""

    def control(self) -> closing[Control]:
        """Open the SuperLink's Control API, which is what `flwr` on a command line talks to."""
        return open_control(self.address, self.root)


def healthy(address: str, root: Path | None, seconds: float = 1.0) -> bool:
    """Whether the SuperLink or SuperNode at an address answers."""
    if root:
        trust = ssl.create_default_context(cafile=root)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(address, timeout=seconds, context=trust)
    else:
        connection = http.client.HTTPConnection(address, timeout=seconds)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def script(name: str) -> str:
    """Find a console script of the very environment we run in; where that has none, the first on PATH.

    Raises:
        SuperLinkError: there is none.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SuperLinkError(f"{name} is neither beside {sys.executable} nor on PATH: install Flower there (flwr)")
    return found
