"""The same app on real SuperNodes: one host, one process per part, TLS between all of them, a key per node.

    flotilla ── superlink.py                flower-superlink that holds questions; TLS, a key per node, state in a file
             ├─ app_process.py              flwr-serverapp; its output is our output
             ├─ supernode.py (each)         flower-supernode with shorter rests; TLS on both sides
             └─ executor.py                 forks a ClientApp process for each message, for all nodes of this host

What dies is started again, as systemd or Docker would. The SuperLink's state is in a file, and the ServerApp and the
nodes find it again. The ServerApp is not restarted: the next run with `--resume` goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from flotilla.deploy.tls_keys import node_folder, public_keys
from flotilla.superlink.superlink import PROGRAMS, SuperLink, SuperLinkError, free_port, healthy, script
from flotilla.user_code import UserCode

_LOOK = 0.2  # seconds between two looks at the processes
_ASK = 0.5  # seconds between two questions to the SuperLink, each a connection of its own
_PAUSE = 2.0  # seconds before a process that has ended is started again, at first
# A SuperNode whose predecessor was killed is refused for up to 60 s, and each try costs seconds of CPU.
_LONGEST_PAUSE = 16.0
_STAYS = 30.0  # seconds after which a process counts as having come to stay


class Deployment(SuperLink):
    """A SuperLink with SuperNodes.

    Args:
        home, env, started: as `SuperLink` has them.
        tiers: tier of every node.
        keys: folder that `flotilla.deploy.tls_keys.make_keys` filled; None: no TLS and no node authentication.
        seconds: how long the nodes may take to come.
        superexec: Flower's own SuperNode and SuperExec in place of ours, as they come: to compare with.
        allow: import paths that every node follows where a run names them, as a node config says it.
        data: folder with one for each node, by its number: the data that it owns; None: none.

    Attributes:
        nodes: the SuperNodes, in order; a restarted one takes the place of its predecessor.
        executors: what starts their ClientApps: ours for all of them, or Flower's, one for each.
    """

    task = "flwr-serverapp"

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        started: Callable[[int], None],
        *,
        tiers: Sequence[str],
        keys: Path | None,
        seconds: float = 300.0,
        superexec: bool = False,
        allow: str = "",
        data: Path | None = None,
    ) -> None:
        self._keys, self._tiers, self._seconds = keys, tuple(tiers), seconds
        self.root = keys / "ca.crt" if keys else None
        self._superexec, self._allow, self._data = superexec, allow, data
        self.executors: list[subprocess.Popen[bytes]] = []
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []
        self._end = threading.Event()
        super().__init__(home, env, started)
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def _program(self) -> list[str]:
        return super()._program() if self._superexec else [sys.executable, "-P", str(PROGRAMS / "superlink.py")]

    def _options(self) -> list[str]:
        options = ["--database", str(self._home / "superlink.db")]
        if self._keys is None:
            return ["--insecure", *options]
        return [*options, *_certificate(self._keys, self._keys / "superlink"), "--enable-supernode-auth"]

    def _app_options(self) -> list[str]:
        return []

    def submit(
        self,
        app_dir: Path,
        overrides: Mapping[str, object],
        federation: Mapping[str, object],
        code: UserCode = UserCode(),  # noqa: B008 - frozen
    ) -> int:
        """Register and start the nodes, wait for them, then start the run as `SuperLink.submit` does."""
        self.wait_ready()
        if self._keys is not None:
            self._register(public_keys(self._keys))
        self._ports = [free_port() for _ in self._tiers]
        groups = range(len(self._tiers) if self._superexec else 1)
        self.executors = [self._start_executor(group) for group in groups]
        self.nodes = [self._start_node(node) for node in range(len(self._tiers))]
        self._watcher.start()
        print(f"SuperLink: {self.address}", file=sys.stderr, flush=True)
        self._wait_for_nodes()
        return super().submit(app_dir, overrides, federation, code)

    def status(self) -> str:
        """Ask for the run's status; the SuperLink may be about to come back."""
        deadline = time.monotonic() + self._seconds
        while not healthy(self.address, self.root) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return super().status()

    def close(self) -> None:
        """Restart nothing any more."""
        self._end.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def logs(self) -> list[Path]:
        """The logs of the SuperLink, of the ClientApps and of the nodes, as far as there are any."""
        logs = [self.log, self._clients_log, *(self._node_log(node) for node in range(len(self._tiers)))]
        return [log for log in logs if log.exists()]

    def _node_log(self, node: int) -> Path:
        return self._home / f"node-{node}.log"

    def _register(self, keys: Mapping[int, bytes]) -> None:
        with self.control() as control:
            for node in range(len(self._tiers)):
                if node not in keys:
                    raise SuperLinkError(f"{self._keys} has no key for node {node}")
                control.register(keys[node], f"node-{node}")

    def _start_node(self, node: int) -> subprocess.Popen[bytes]:
        quick = [sys.executable, "-P", str(PROGRAMS / "supernode.py")]
        command = [script("flower-supernode")] if self._superexec else quick
        command += ["--superlink", self.address, "--port", str(self._ports[node]), "--isolation", "process"]
        config = f'partition-id={node} num-partitions={len(self._tiers)} tier="{self._tiers[node]}"'
        config += f' allow="{self._allow}"' if self._allow else ""
        config += f' data-root="{self._data / str(node)}"' if self._data else ""
        command += ["--node-config", config]
        if self._keys is None:
            command += ["--insecure"]
        else:
            own = node_folder(self._keys, node)
            command += ["--root-certificates", str(self.root), "--auth-supernode-private-key", str(own / "auth")]
            command += _certificate(self._keys, own)
        return self._start(command, self._node_log(node))

    def _start_executor(self, group: int) -> subprocess.Popen[bytes]:
        """Ours, for all nodes; or Flower's for one."""
        env = dict(self._env)
        # That interval suits one simulation; here each look is a request over TLS to each node, which costs both CPU.
        env.pop("FLWR_SUPEREXEC_TASK_POLL_INTERVAL")
        if self._superexec:
            command, ports = [script("flower-superexec")], [self._ports[group]]
            path = env.get("PATH", os.defpath)
            env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"  # it starts `flwr-clientapp` by name
            env["FLWR_HOME"] = str(self._home / "flwr" / f"node-{group}")  # flwr unpacks bundles without any locking
        else:
            command, ports = [sys.executable, "-P", str(PROGRAMS / "executor.py")], self._ports
        for port in ports:
            command += ["--runtime-api-address", f"127.0.0.1:{port}"]
        command += ["--root-certificates", str(self.root)] if self.root else ["--insecure"]
        return self._start(command, self._clients_log, env)

    def _start(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return self._spawn(command, stdin=subprocess.DEVNULL, stdout=output, env=env)

    @property
    def _clients_log(self) -> Path:
        return self._home / "clients.log"

    def _wait_for_nodes(self) -> None:
        """Wait until every node is online: the run would begin with those that are there."""
        import httpx

        deadline, online = time.monotonic() + self._seconds, 0
        while online < len(self._tiers):
            if time.monotonic() > deadline:
                raise SuperLinkError(f"{online} of {len(self._tiers)} nodes came within {self._seconds:.0f} s")
            # The SuperLink may be about to come back.
            with suppress(httpx.TransportError), self.control() as control:
                online = sum(node.online for node in control.nodes())
            time.sleep(_ASK)

    def _watch(self) -> None:
        """Start what has ended again, each part when its own pause is over, until the run is."""
        rests: dict[str, _Rest] = {}
        while not self._end.wait(_LOOK):
            for part, process, start in self._parts():
                rest = rests.setdefault(part, _Rest())
                now = time.monotonic()
                if process.poll() is None:
                    rest.alive(now)
                    continue
                if rest.until is None:
                    _say(f"{part} ended with {process.returncode}, starting it again")
                    rest.begin(now)
                elif now >= rest.until:
                    try:
                        start()
                    except Exception as error:  # no memory, no process: perhaps in a moment
                        _say(f"{part} could not be started: {error}")
                        rest.begin(now)
                    else:
                        rest.end(now)

    def _parts(self) -> Iterator[tuple[str, subprocess.Popen[bytes], Callable[[], None]]]:
        """Name, process and restart of every part; the SuperLink first, since the others need it."""
        yield "the SuperLink", self.process, self._restart_superlink
        for group, process in enumerate(self.executors):
            yield f"executor {group}", process, partial(self._restart_executor, group)
        for node, process in enumerate(self.nodes):
            yield f"node {node}", process, partial(self._restart_node, node)

    def _restart_superlink(self) -> None:
        self.process = self._start_superlink()

    def _restart_executor(self, group: int) -> None:
        self.executors[group] = self._start_executor(group)

    def _restart_node(self, node: int) -> None:
        self.nodes[node] = self._start_node(node)


class _Rest:
    """When a part that has ended is due to be started again; longer and longer while it does not stay.

    Attributes:
        until: seconds of the monotonic clock; None: it is not waiting.
    """

    def __init__(self) -> None:
        self.until: float | None = None
        self._pause, self._began = _PAUSE, float("-inf")

    def begin(self, now: float) -> None:
        """It has ended."""
        self.until = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def end(self, now: float) -> None:
        """It has been started."""
        self.until, self._began = None, now

    def alive(self, now: float) -> None:
        """It is there."""
        if now - self._began > _STAYS:
            self._pause = _PAUSE


def _say(line: str) -> None:
    print(f"flotilla: {line}", file=sys.stderr, flush=True)


def _certificate(keys: Path, own: Path) -> list[str]:
    """Options that make a part serve TLS."""
    return [
        "--ssl-ca-certfile",
        str(keys / "ca.crt"),
        "--ssl-certfile",
        str(own / "tls.crt"),
        "--ssl-keyfile",
        str(own / "tls.key"),
    ]
