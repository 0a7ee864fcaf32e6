"""A Ray cluster of two raylets on this machine, the second with files of its own: nothing in /tmp, no checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from flotilla.superlink.processes import in_sessions, sweep
from flotilla.superlink.superlink import free_port, script

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "protocol", "data", "strategies", "client_app", "server_app", "flotilla", "benchmarks")
_UNSHARE = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


class TwoRaylets:
    """Head "first" and worker node "second", with one CPU each."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray's sockets are below it
        self._started: list[subprocess.Popen[bytes]] = []
        self._second = 0
        port = str(free_port())
        self._start(["--head", "--port", port, "--temp-dir", str(self._home / "first"), "--include-dashboard", "false"])
        self.address = f"{self._waits_for('Local node IP: ', 'first')}:{port}"

    def start_second(self) -> None:
        """Start the second node, with nothing of the checkout and nothing of /tmp to be seen."""
        if any(Path("/tmp") in Path(place).parents for place in (ROOT, sys.prefix)):
            pytest.skip("the checkout or its environment lies below /tmp, of which the second machine sees nothing")
        elsewhere = subprocess.run(
            [sys.executable, "-c", "import client_app; print(client_app.__path__[0])"],
            cwd="/",
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        roots = {ROOT, *([Path(elsewhere).parent] if elsewhere else [])}
        hidden = [Path("/tmp"), *(root / package for root in roots for package in PACKAGES)]
        mounts = " && ".join(f"mount -t tmpfs none '{path}'" for path in hidden)
        self._second = self._start(
            ["--address", self.address], within=[*_UNSHARE, "sh", "-c", f'{mounts} && exec "$@"', "sh"]
        )
        self._waits_for("Ray runtime started", "second")

    def kill_second(self) -> None:
        """As if the machine lost its power: whatever it runs, and all it holds, is gone at once."""
        assert self._second
        for process in in_sessions([self._second]):
            process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End everything that was started here."""
        sweep(lambda: in_sessions(process.pid for process in self._started))
        for process in self._started:
            process.wait(60)
        shutil.rmtree(self._home, ignore_errors=True)

    def _start(self, options: list[str], within: list[str] | None = None) -> int:
        name = "second" if within else "first"
        command = [*(within or []), script("ray"), "start", *options, "--block", "--num-cpus", "1"]
        command += ["--node-name", name, "--object-store-memory", str(200_000_000), "--disable-usage-stats"]
        with (self._home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd="/", env=_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._started.append(process)
        return process.pid

    def _waits_for(self, words: str, name: str) -> str:
        """What follows some words in a node's output, once it has started."""
        deadline, said = time.monotonic() + 240, ""
        while "Ray runtime started" not in said:
            said = (self._home / f"{name}.log").read_text(errors="replace")
            if "mount:" in said or "unshare:" in said or "must be superuser" in said:
                pytest.skip(f"no mount namespaces here: {said.strip()}")
            assert time.monotonic() < deadline, said
            assert self._started[-1].poll() is None, said
            time.sleep(0.2)
        return said.partition(words)[2].split()[0] if words in said else ""


def _environment() -> dict[str, str]:
    """What a machine of a cluster has: nothing of the project."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLOTILLA", "FLWR", "RAY"))}
    own.pop("PYTHONPATH", None)
    return {**own, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
