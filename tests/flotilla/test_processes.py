from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flotilla.processes import die_with_parent, family, marked, sweep
from flotilla.run import remove_stale_homes

SLEEP = "import time; time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); {SLEEP}"


def _start(code: str, mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "FLOTILLA_TEST": mark},
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path)
    for process in marked("FLOTILLA_TEST", str(tmp_path)):
        process.kill()


def _close(process: subprocess.Popen[bytes]) -> None:
    process.wait(5)
    assert process.stdout is not None
    process.stdout.close()


def test_sweep_ends_the_tree_and_what_was_reparented(mark: str) -> None:
    # The middle process ends at once, so its child is nobody's: only the mark finds it.
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}], start_new_session=True)"
    middle = _start(orphan, mark)
    assert middle.stdout is not None
    assert middle.stdout.readline() == b"1\n"
    middle.wait(5)
    other = _start(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DEAF!r}])", mark)
    assert other.stdout is not None
    assert other.stdout.readline() == b"1\n"
    assert len(family([other.pid])) == 2
    assert len(marked("FLOTILLA_TEST", mark)) == 3
    assert sweep(lambda: family([other.pid]) | marked("FLOTILLA_TEST", mark), patience=0.2) == 3
    assert marked("FLOTILLA_TEST", mark) == set()
    _close(other)
    _close(middle)


def test_nothing_to_sweep() -> None:
    assert sweep(set) == 0
    assert family([2**22 + 1]) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_children_of_a_killed_parent_end(mark: str) -> None:
    code = f"""
import subprocess, sys
from flotilla.processes import die_with_parent
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True, preexec_fn=die_with_parent())
print(child.pid, flush=True)
child.wait()
"""
    parent = _start(code, mark)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    _close(parent)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stale_folders_of_dead_flotillas_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flotilla.run._short_tempdir", lambda: str(tmp_path))
    for name in ("flotilla-99999999-x", f"flotilla-{os.getpid()}-x", "flotilla-data-x"):
        (tmp_path / name).mkdir()
    remove_stale_homes()
    assert {path.name for path in tmp_path.iterdir()} == {"flotilla-data-x", f"flotilla-{os.getpid()}-x"}
