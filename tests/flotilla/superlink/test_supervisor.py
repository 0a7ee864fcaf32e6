"""What starts the parts of a federation again: each when its own pause is over, and nothing ends the watching."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from flotilla.deploy.deployment import Deployment


class Process:
    """One that has ended, or not."""

    def __init__(self, returncode: int | None) -> None:
        self.returncode = returncode

    def poll(self) -> int | None:
        return self.returncode


class Supervised(Deployment):
    """A deployment without any process; a part is dead for so many restarts."""

    def __init__(self, **dies: int) -> None:
        self._end, self.now, self.started = threading.Event(), 0.0, list[tuple[str, float]]()
        self.dies, self.processes = dies, {name: Process(-9 if count else None) for name, count in dies.items()}
        self.fails: dict[str, int] = {}

    def _parts(self) -> Iterator[tuple[str, Any, Callable[[], None]]]:
        for name in self.dies:
            yield name, self.processes[name], lambda name=name: self._again(name)  # type: ignore[misc]

    def _again(self, name: str) -> None:
        if self.fails.get(name, 0):
            self.fails[name] -= 1
            raise OSError("no memory")
        self.started.append((name, round(self.now, 1)))
        self.dies[name] -= 1
        self.processes[name] = Process(-9 if self.dies[name] else None)

    def watch(self, seconds: float) -> list[tuple[str, float]]:
        """What was started and when, by a clock that a look advances."""

        def wait(look: float) -> bool:
            self.now += look
            return self.now > seconds

        with patch.object(self._end, "wait", wait), patch("time.monotonic", lambda: self.now):
            self._watch()
        return self.started


def test_parts_that_die_together_come_back_together() -> None:
    started = Supervised(superlink=1, executor=1, a=1, b=1, c=1).watch(10.0)
    assert [name for name, _ in started] == ["superlink", "executor", "a", "b", "c"]
    assert all(2.0 <= at <= 2.5 for _, at in started)


def test_a_part_that_does_not_stay_is_tried_less_and_less_and_keeps_nobody_up() -> None:
    """As a SuperNode is whose key the SuperLink refuses for a minute."""
    deployment = Supervised(superlink=0, a=50)
    started = deployment.watch(75.0)
    assert [at for _, at in started] == pytest.approx([2.2, 6.4, 14.6, 30.8, 47.0, 63.2], abs=1.0)


def test_an_exception_does_not_end_the_watching(capsys: pytest.CaptureFixture[str]) -> None:
    deployment = Supervised(superlink=1, a=1)
    deployment.fails = {"superlink": 2}
    assert [name for name, _ in deployment.watch(60.0)] == ["a", "superlink"]
    assert capsys.readouterr().err.count("superlink could not be started: no memory") == 2
