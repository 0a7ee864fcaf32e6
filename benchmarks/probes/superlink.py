"""What one SuperLink bears: many deployed nodes that say hello and answer messages of one number (docs/scale.md).

Nodes are only their requests (`flotilla.flwr_compat.fleet`), without processes of their own, and the app on the
server's side asks all of them in every round. What counts is the SuperLink's own CPU time, which depends less on who
else uses the machine than seconds on the wall do.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import monotonic

import psutil
from flwr.app import MetricRecord, RecordDict

from benchmarks.document import DOCS, replace_part, table
from benchmarks.task import Command, Options
from flotilla.flwr_compat.fleet import FleetNode
from flotilla.superlink.processes import Guard
from flotilla.superlink.superlink import SuperLink, environment

DOCUMENT = DOCS / "scale.md"
_POLL = 3.0  # seconds between two looks of a node for a message; flwr's own
_THREADS = 16
_COUNTS, _ROUNDS = (50, 100, 200), 2
_HEADS = [
    "nodes",
    "SuperLink's CPU, hello of one node, ms",
    "idle, of a core",
    "CPU of a message and its reply, ms",
    "requests of a node meanwhile",
    "requests a CPU second",
    "s a round",
    "SuperLink, MB",
    "requests that failed",
]
_PROJECT = """
[project]
name = "load"
version = "1.0.0"
license = {file = "LICENSE"}
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "flotilla"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "load:app"
clientapp = "load:client"
[tool.flwr.app.config]
nodes = 1
rounds = 1
"""
_APP = """
import time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

app = ServerApp()
client = ClientApp()


@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    assert len(nodes) == context.run_config["nodes"], len(nodes)
    for number in range(context.run_config["rounds"]):
        began = time.monotonic()
        asked = [Message(RecordDict({"config": ConfigRecord({"round": number})}), node, "train") for node in nodes]
        replies = list(grid.send_and_receive(asked, timeout=1200))
        print("round", len([reply for reply in replies if reply.has_content()]), time.monotonic() - began, flush=True)
"""


class _Plain(SuperLink):
    """A SuperLink as in a deployment, without TLS."""

    task = "flwr-serverapp"

    def _options(self) -> list[str]:
        return ["--insecure", "--database", str(self._home / "superlink.db")]

    def _app_options(self) -> list[str]:
        return []


class _Nodes:
    """Nodes that look for messages until they are told to end.

    Args:
        address: of the SuperLink.
        count: how many.
        lost: called when one cannot go on, so that nobody waits for its replies.
    """

    def __init__(self, address: str, count: int, lost: Callable[[], None]) -> None:
        self._end, self._lost, self._failed = Event(), lost, list[Exception]()
        with ThreadPoolExecutor(_THREADS) as threads:
            self._nodes = list(threads.map(FleetNode, [address] * count, [self._end] * count))
        self._threads = [Thread(target=self._serve, args=(self._nodes[turn::_THREADS],)) for turn in range(_THREADS)]

    def start(self) -> None:
        """Begin to look for messages."""
        for thread in self._threads:
            thread.start()

    @property
    def requests(self) -> int:
        """How many requests they have made."""
        return sum(node.requests for node in self._nodes)

    @property
    def failures(self) -> int:
        """How many of them the SuperLink could not answer."""
        return sum(node.failures for node in self._nodes)

    def check(self) -> None:
        """See that all of them still look for messages.

        Raises:
            RuntimeError: one cannot go on; says why.
        """
        if self._failed:
            raise RuntimeError(f"a node cannot go on: {self._failed[0]}") from self._failed[0]

    def close(self) -> None:
        """End."""
        self._end.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _serve(self, nodes: Sequence[FleetNode]) -> None:
        content = RecordDict({"metrics": MetricRecord({"loss": 1.0})})
        try:
            while not self._end.is_set():
                began = monotonic()
                for node in nodes:
                    node.answer(content)
                self._end.wait(max(0.0, _POLL - (monotonic() - began)))
        except Exception as error:
            if not self._end.is_set():
                self._failed.append(error)
                self._lost()


def measured(count: int, rounds: int) -> list[str]:
    """Start a SuperLink and so many nodes, and return the line of the table."""
    with tempfile.TemporaryDirectory(prefix="load-", dir="/tmp") as place:
        home, app_dir = Path(place) / "home", Path(place) / "app"
        home.mkdir()
        app_dir.mkdir()
        for name, text in (("pyproject.toml", _PROJECT), ("load.py", _APP), ("LICENSE", "Apache-2.0\n")):
            (app_dir / name).write_text(text, encoding="utf-8")
        guard = Guard(home)
        superlink = _Plain(home, environment(home), guard.watch)
        nodes: _Nodes | None = None
        try:
            superlink.wait_ready()
            process = psutil.Process(superlink.process.pid)
            before = _cpu(process)
            nodes = _Nodes(superlink.address, count, superlink.app.kill)
            hello = (_cpu(process) - before) / count
            nodes.start()
            idle = _idle(process, nodes)
            superlink.submit(app_dir, {"nodes": count, "rounds": rounds + 1}, {})
            marks = [(seconds, _cpu(process), nodes.requests) for seconds in _rounds(superlink.app, count)]
            nodes.check()
            memory, failures = process.memory_info().rss / 2**20, nodes.failures
            if len(marks) != rounds + 1:
                raise RuntimeError(f"{len(marks)} rounds; SuperLink: {superlink.log.read_text()[-2000:]}")
        finally:
            if nodes is not None:
                nodes.close()
            superlink.process.kill()
            for error in sorted(set(_errors(superlink.log))):
                print(f"SuperLink: {error}")
            guard.close()
    # From the end of the first round: that one also has the start of the run in it.
    (_, before, asked), (_, after, answered) = marks[0], marks[-1]
    messages, used, requests = count * rounds, after - before, answered - asked
    figures = [1000 * hello, idle, 1000 * used / messages, requests / messages, requests / used]
    typical = median(seconds for seconds, _, _ in marks[1:])
    line = [str(count), *(f"{figure:.3g}" for figure in figures), f"{typical:.3g}", f"{memory:.0f}"]
    return [*line, str(failures)]


def _errors(log: Path) -> list[str]:
    """Last lines of tracebacks in a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line[:200] for line in lines if re.match(r"[\w.]+(Error|Exception|Timeout)\b", line)]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _idle(process: psutil.Process, nodes: _Nodes) -> float:
    """Share of a core that looking for messages costs when there are none."""
    rest, began, used = Event(), monotonic(), _cpu(process)
    asked = nodes.requests
    while nodes.requests - asked < 2 * len(nodes._nodes):
        nodes.check()
        rest.wait(0.5)
    return (_cpu(process) - used) / (monotonic() - began)


def _rounds(app: subprocess.Popen[bytes], count: int) -> Iterator[float]:
    """Seconds of each round when it has ended, until the app ends; each must have had all replies."""
    assert app.stdout is not None
    for raw in app.stdout:
        words = raw.decode(errors="replace").split()
        if words[:1] == ["round"]:
            if int(words[1]) != count:
                raise RuntimeError(f"{words[1]} of {count} replies")
            yield float(words[2])


def _tables(options: Options) -> int:
    """Measure, print, and write into docs/scale.md."""
    counts = [options.nodes] if options.nodes else _COUNTS
    text = table(_HEADS, [measured(count, options.rounds or _ROUNDS) for count in counts], markdown=True)
    print(f"\n{text}", flush=True)
    if options.write:
        replace_part(DOCUMENT, "superlink", text)
    return 0


TASK = Command(_tables, defaults={"nodes": 0, "rounds": 0, "write": False})
