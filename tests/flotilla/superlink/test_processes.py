from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flotilla.superlink.processes import Guard, in_sessions, marked, sweep
from flotilla.superlink.superlink import SuperLinkError, script

SLEEP = "import time; time.sleep(3600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); {SLEEP}"


def _start(code: str, mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "FLWR_HOME": mark},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _runs(pid: int) -> bool:
    """Whether a process is alive; one that nobody has waited for, as where process 1 reaps no orphans, is not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def _close(process: subprocess.Popen[bytes]) -> None:
    process.wait(120)
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    home = tmp_path / "home"
    (home / "flwr").mkdir(parents=True)
    yield str(home / "flwr")
    for process in marked("FLWR_HOME", str(home / "flwr")):
        process.kill()


def test_sweep_ends_sessions_and_what_left_them(mark: str) -> None:
    # The middle process ends at once, so its child is nobody's; the first one stays in the session, the second leaves.
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session={leave})"
    stays = _start(child.format(code=DEAF, leave=False), mark)
    leaves = _start(child.format(code=DEAF, leave=True), mark)
    for process in (stays, leaves):
        assert _first_line(process) == b"1\n"
        process.wait(120)
    assert len(in_sessions([stays.pid, leaves.pid])) == 1
    assert len(marked("FLWR_HOME", mark)) == 2
    assert sweep(lambda: in_sessions([stays.pid]) | marked("FLWR_HOME", mark), patience=0.2) == 2
    assert marked("FLWR_HOME", mark) == set()
    _close(stays)
    _close(leaves)


def test_who_is_dead_is_not_waited_for_although_nobody_collects_it(mark: str) -> None:
    child = f"subprocess.Popen([sys.executable, '-c', {DEAF!r}], env={{**os.environ, 'FLWR_HOME': {mark!r}}})"
    parent = _start(f"import os, subprocess, sys; {child}; {SLEEP}", "")
    try:
        assert _first_line(parent) == b"1\n"
        began = time.monotonic()
        assert sweep(lambda: marked("FLWR_HOME", mark), patience=0.1) == 1
        assert time.monotonic() - began < 3.0  # the limit for what does not die is 5 s
        assert [one.status() for one in psutil.Process(parent.pid).children()] == [psutil.STATUS_ZOMBIE]
    finally:
        parent.kill()
        _close(parent)


def test_nothing_to_sweep() -> None:
    assert sweep(set) == 0
    assert in_sessions([2**22 + 1]) == set()


def test_guard_closed(mark: str) -> None:
    home = Path(mark).parent
    guard = Guard(home)
    process = _start(DEAF, mark)
    guard.watch(process.pid)
    assert _first_line(process) == b"1\n"
    guard.close()
    assert process.poll() is not None or not _runs(process.pid)
    assert not home.exists()
    _close(process)


def test_guard_acts_when_its_master_is_killed(mark: str) -> None:
    home = Path(mark).parent
    code = f"""
import subprocess, sys
from pathlib import Path
from flotilla.superlink.processes import Guard
guard = Guard(Path({str(home)!r}))
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
guard.watch(child.pid)
print(child.pid, flush=True)
child.wait()
"""
    master = _start(code, "another")
    child = int(_first_line(master))
    master.kill()
    _close(master)
    deadline = time.monotonic() + 120
    try:
        while home.exists() or _runs(child):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_program_is_found_beside_this_python_or_on_the_path_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SuperLinkError, match=r"flower-none is neither beside .*python nor on PATH: install Flower"):
        script("flower-none")
    for folder in (tmp_path, tmp_path / "bin"):
        folder.mkdir(exist_ok=True)
        (folder / "flower-none").touch(mode=0o755)
        assert script("flower-none") == str(folder / "flower-none")
