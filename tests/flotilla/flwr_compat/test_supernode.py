"""The SuperNode's rests: soon after a message, seldom without one."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from flotilla.flwr_compat import supernode


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.at, self.slept = 0.0, list[float]()

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds


def test_rests_grow_with_the_silence_and_begin_anew() -> None:
    clock = Clock()
    rests = supernode.Rests(clock.now, clock.sleep)
    for _ in range(20):
        rests.sleep(3)
    assert clock.slept[0] == 0.2
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == 3.0  # flwr's
    behind = max(rest / at for rest, at in zip(clock.slept[5:], range(1, 100), strict=False))
    assert behind <= 1.0
    clock.slept.clear()
    rests.sleep(0.5)  # while a ClientApp works
    rests.sleep(3)
    assert clock.slept == [0.02, 0.2]


def test_no_rest_after_a_question_that_was_held() -> None:
    clock = Clock()
    rests = supernode.Rests(clock.now, clock.sleep)
    for held in (3.0, 3.0, 0.01):
        clock.at += held
        rests.sleep(3)
    assert clock.slept == [pytest.approx(0.25 * 6.01)]


def test_never_longer_than_flwrs() -> None:
    clock = Clock()
    rests = supernode.Rests(clock.now, clock.sleep)
    for _ in range(300):
        rests.sleep(3)
    clock.slept.clear()
    rests.sleep(1.5)
    rests.sleep(0.01)
    assert clock.slept == [1.5, 0.01]


def test_a_question_for_a_task_waits_for_it() -> None:
    tasks: list[str] = []
    come = threading.Event()
    acquire = supernode.hold(lambda request, state: SimpleNamespace(token="".join(tasks)), come)

    def bring() -> None:
        tasks.append("t")
        come.set()

    threading.Timer(0.3, bring).start()
    began = time.monotonic()
    assert acquire(None, None).token == "t"
    assert 0.2 < time.monotonic() - began < 3
    assert acquire(None, None).token == "t"


def test_but_not_for_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(supernode, "_HOLD", 0.2)
    began = time.monotonic()
    assert supernode.hold(lambda request, state: SimpleNamespace(token=""), threading.Event())(None, None).token == ""
    assert 0.15 < time.monotonic() - began < 3


def test_a_question_whose_asker_is_gone_takes_no_task() -> None:
    """The executor was killed, another one asks in its place, and then there is a task."""
    tasks: list[str] = []
    come, answers = threading.Event(), dict[str, str]()

    def claim(request: Any, state: Any) -> Any:
        return SimpleNamespace(token=tasks.pop() if tasks else "")

    acquire = supernode.hold(claim, come)
    askers = [
        threading.Thread(target=lambda who: answers.update({who: acquire(None, None).token}), args=(who,))
        for who in ("gone", "there")
    ]
    began = time.monotonic()
    askers[0].start()
    time.sleep(0.2)
    askers[1].start()
    askers[0].join(timeout=3)
    assert answers == {"gone": ""}
    assert time.monotonic() - began < 3
    tasks.append("t")
    come.set()
    askers[1].join(timeout=10)
    assert answers == {"gone": "", "there": "t"}


def test_the_rest_of_the_clock_is_as_it_comes() -> None:
    rests = supernode.Rests()
    assert abs(rests.time() - time.time()) < 10
    assert rests.perf_counter is time.perf_counter


def test_flwrs_loop_is_what_is_patched() -> None:
    loop = importlib.import_module("flwr.supernode.start_client_internal")
    source = inspect.getsource(loop)
    assert source.count("time.sleep(3)") == 1  # without a message
    assert source.count("time.sleep(0.5)") == 2  # for a reply, and for the rest of it
    assert len(re.findall(r"\btime\.\w+\(", source)) == 3
    assert source.index("create_task(") < source.index("store_message(message)", source.index("create_task("))
    main = importlib.import_module("flwr.supernode.main")
    assert main._RUNTIME_HANDLERS is importlib.import_module("flwr.supernode.servicer.runtime.runtime_handlers")
    router = inspect.getsource(importlib.import_module("flwr.supercore.routers.runtime.router"))
    # In a thread of its own, and looked up when it is called.
    assert "\ndef acquire_task(" in router
    assert "return handlers.acquire_task(request, state)" in router


def test_all_of_it_applies_and_the_options_are_flwrs() -> None:
    """In a process of its own: what it changes is the process's."""
    code = (
        "from flotilla.flwr_compat import supernode as s; s.be_quick();"
        "assert isinstance(s.loop.time, s.Rests);"
        "assert s.runtime_handlers.acquire_task.__module__ == s.__name__;"
        "assert s.InMemoryNodeState.store_message.__module__ == s.__name__;"
        "assert s.inflatable_utils.pull_objects.__kwdefaults__['backoff_cap'] == 0.1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    said = subprocess.run(
        [sys.executable, "-P", supernode.__file__, "--help"], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    assert "--superlink" in said
    assert "--node-config" in said
