"""Parts of a federation that are restarted at a chosen moment; `make trials` does it at random ones.

What may be missing afterwards, and that the model is the one of a run in which exactly that is missing:
`tests.faults.losses` and `tests.faults.trials.replay`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from flotilla.deploy.tls_keys import make_keys
from tests.faults.losses import Diary, Kill
from tests.faults.parts import children, clients
from tests.faults.trials import NODES, end, replay, rows, start
from tests.support import Outcome

ROUNDS = 15  # enough for a part to be back before the end
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


class Running:
    """A federation over TLS that trains HeteroFL.

    Args:
        folder: of the test.
    """

    def __init__(self, folder: Path) -> None:
        self.run, self.log, self.diary = folder / "run", folder / "output.txt", Diary()
        make_keys(folder / "keys", NODES)
        self.process = start(self.run, ROUNDS, self.log, folder / "keys", resume=False)

    def wait(self, for_what: Callable[[], bool], seconds: float = 600.0) -> None:
        """Wait until something is so, while the federation runs."""
        until = time.monotonic() + seconds
        while not for_what():
            assert time.monotonic() < until, self.said
            assert self.process.poll() is None, self.said
            self.diary.see(len(rows(self.run)))
            time.sleep(0.05)

    def finish(self) -> None:
        """Wait for the end of the run."""
        until = time.monotonic() + 600.0
        while self.process.poll() is None and time.monotonic() < until:
            self.diary.see(len(rows(self.run)))
            time.sleep(0.05)
        assert self.process.poll() == 0, self.said
        self.diary.see(len(rows(self.run)))
        assert len(rows(self.run)) == ROUNDS

    def one(self, program: str, argument: str = "") -> psutil.Process:
        """The process of a part."""
        for pid in children(self.process.pid):
            line = " ".join(psutil.Process(pid).cmdline())
            if program in line and argument in line:
                return psutil.Process(pid)
        raise AssertionError(f"no {program} {argument}")

    def clients(self) -> list[int]:
        """Process ids of node 0's ClientApps at work."""
        first = min(children(self.one("executor.py").pid))  # it forks one process for each node, in their order
        return clients(first)

    def next_client(self) -> int:
        """Process id of node 0's next ClientApp, at the beginning of its short life."""
        executor = min(children(self.one("executor.py").pid))
        apps = children(executor)
        before = set(clients(executor))
        while not (fresh := {client for app in apps for client in children(app)} - before):
            time.sleep(0.001)
        return fresh.pop()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    federation = Running(tmp_path)
    yield federation
    end(federation.process)


def test_the_superlink_is_restarted_mid_run(running: Running, tmp_path: Path) -> None:
    running.wait(lambda: len(rows(running.run)) == 2)
    before = running.one("superlink.py")
    before.send_signal(signal.SIGKILL)
    running.diary.kills.append(Kill(part="SuperLink", node=None, at=time.monotonic(), number=3, incarnation=0))
    running.finish()
    assert "the SuperLink ended with -9, starting it again" in running.said
    check(running, tmp_path)


def test_a_supernode_is_restarted_mid_round(running: Running, tmp_path: Path) -> None:
    """Asked to end, as systemd and Docker do, while its ClientApp works: it signs off, and is back at once."""
    running.wait(lambda: len(rows(running.run)) == 2)
    running.wait(lambda: bool(running.clients()))
    node = running.one("supernode.py", "partition-id=0 ")
    node.send_signal(signal.SIGTERM)
    running.diary.kills.append(
        Kill(part="SuperNode", node=0, at=time.monotonic(), number=len(rows(running.run)) + 1, incarnation=0)
    )
    running.finish()
    assert re.search(r"node 0 ended with \S+, starting it again", running.said)
    check(running, tmp_path)
    assert 0 in rows(running.run)[-1]["selected"]
    assert rows(running.run)[-1]["accepted"] == NODES


def test_a_killed_clientapp_costs_one_reply_and_no_waiting(running: Running, tmp_path: Path) -> None:
    running.wait(lambda: len(rows(running.run)) == 2)
    pause = 0.1  # before it has read, another one does it; after its reply it has ended: the moment is sought
    while not any(row["rejected"] for row in rows(running.run)):
        number = len(rows(running.run)) + 1
        pid = running.next_client()
        time.sleep(pause)
        pause = 1.5 * pause if pause < 2 else 0.1
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(pid, signal.SIGKILL)
        running.diary.kills.append(Kill(part="ClientApp", node=0, at=time.monotonic(), number=number, incarnation=0))
        running.wait(partial(lambda least: len(rows(running.run)) > least, number))
    running.finish()
    check(running, tmp_path)
    (row,) = (row for row in rows(running.run) if row["rejected"])
    assert row["rejected"] == [{"node": 0, "reason": "error 8: The ClientApp was killed by signal 9."}]
    assert row["waiting_seconds"]["train"]["replies"] == NODES  # the error is one of them: no deadline passed


def check(running: Running, folder: Path) -> None:
    """Nothing is missing that was not in flight, and what is there counted once."""
    costs = running.diary.check(rows(running.run), NODES)
    print(f"replies lost: {dict(costs)}")
    copy = replay(running.run, folder / "replay", ROUNDS)
    assert [row["selected"] for row in copy.rows] == [row["selected"] for row in rows(running.run)]
    assert copy.hash == Outcome(running.run, {}, []).hash
