"""The command as a user meets it: a real process, a tiny Flower app."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flotilla.about import METHOD_NAMES

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "tiny"
version = "0.1.0"
license = {file = "LICENSE"}
requires-python = ">=3.11"
dependencies = ["flwr[simulation]>=1.41.0,<2.0"]
[tool.flwr.app]
publisher = "flotilla"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "server_app.app:app"
clientapp = "client_app.app:app"
[tool.flwr.app.config]
mode = "good"
num-clients = 3
run-dir = ""
"""

SERVER = """
import os, sys, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    mode = context.run_config["mode"]
    print("hello from", Path(__file__).parent.parent, flush=True)
    if mode == "raise":
        raise ValueError("no such sea")
    if mode == "exit":
        sys.exit(3)
    if mode == "die":
        os._exit(9)
    while len(ids := list(grid.get_node_ids())) < 3:
        time.sleep(0.05)
    replies = list(grid.send_and_receive([Message(RecordDict(), i, "query") for i in ids], timeout=120))
    for reply in replies:
        if reply.has_error():
            raise RuntimeError("a client failed")
        config = reply.content["where"]
        assert config["file"] == str(Path(__file__).parent.parent), config["file"]
        assert config["home"] == os.environ["FLOTILLA_DATA"]
    print("replies:", len(replies), flush=True)
    while mode == "hang":
        time.sleep(1)
"""

CLIENT = """
import os
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message, context):
    if context.run_config["mode"] == "client":
        raise ValueError("client sank")
    where = {"file": str(Path(__file__).parent.parent), "home": os.environ["FLOTILLA_DATA"]}
    return Message(RecordDict({"where": ConfigRecord(where)}), reply_to=message)
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    app = tmp_path / "tiny"
    for name, text in (("server_app", SERVER), ("client_app", CLIENT)):
        (app / name).mkdir(parents=True)
        (app / name / "__init__.py").touch()
        (app / name / "app.py").write_text(text)
    (app / "LICENSE").touch()
    (app / "pyproject.toml").write_text(PYPROJECT)
    return app


def _environment(tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "FLOTILLA_DATA": str(tmp_path / "data"), "FLOTILLA_TEST": str(tmp_path)}


def _command(app: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "flotilla", "run", *more, str(app)]


def _run(tmp_path: Path, app: Path, *more: str) -> tuple[int, str, str]:
    """Run to the end, see that nothing is left behind, and return exit code, output and error output."""
    process = subprocess.Popen(
        _command(app, *more),
        env=_environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=600)
    assert _left_behind(tmp_path, process.pid) == []
    return process.returncode, out, err


def _left_behind(tmp_path: Path, pid: int) -> list[object]:
    """List the run's temporary folder, and processes known by their environment or, for Ray's, by their directory."""
    home = f"/flotilla-{pid}-"
    left: list[object] = list(Path("/tmp").glob(f"flotilla-{pid}-*"))
    for process in psutil.process_iter():
        try:
            if home in process.cwd() or process.environ().get("FLOTILLA_TEST") == str(tmp_path):
                left.append((process.pid, process.cmdline()))
        except psutil.Error:
            continue
    return left


def test_help_is_fast_and_complete() -> None:
    code = "import sys; sys.argv = ['flotilla', 'run', '--help']\nfrom flotilla.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    print(sorted({'torch', 'ray', 'flwr'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=240).stdout
    assert out.rstrip().endswith("[]")
    for words in (METHOD_NAMES, "flotilla keys", "flotilla explain KEY", "Exit codes", "2 a wrong setting"):
        assert words in " ".join(out.split())
    for option in ("--run-dir", "--run-config", "--nodes", "--engine", "--resume", "--gpus-per-client", "--verbose"):
        assert option in out


def test_help_shows_words_in_brackets() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "flotilla", "sweep", "--help"]
    out = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240).stdout
    assert "Tables [settings], [grid] and [rows.NAME], or [search]." in " ".join(out.split())
    assert "A file with [search] looks for settings" in " ".join(out.split())


def test_wrong_setting_is_one_line_and_2(tiny: Path, tmp_path: Path) -> None:
    code, out, err = _run(tmp_path, tiny, "--run-config", "mod=1")
    assert code == 2
    assert out == ""
    assert err == "flotilla: mod = 1: no such setting; did you mean mode? this app has mode, num-clients, run-dir\n"


@pytest.mark.e2e
def test_success(tiny: Path, tmp_path: Path) -> None:
    code, out, err = _run(tmp_path, tiny)
    assert code == 0, out + err
    assert "replies: 3" in out
    assert "Starting Flower" not in out
    assert err == ""
    assert not (tmp_path / "runs").exists()  # the app writes the run folder, and this one doesn't


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        pytest.param("raise", "ValueError: no such sea", marks=pytest.mark.slow),
        pytest.param("client", "RuntimeError: a client failed", marks=pytest.mark.slow),
        pytest.param("exit", "RuntimeError: the ServerApp called sys.exit(3)", marks=pytest.mark.slow),
        ("die", "its app process ended with 9"),
    ],
)
def test_failure_is_1_and_names_the_error(tiny: Path, tmp_path: Path, mode: str, reason: str) -> None:
    code, out, err = _run(tmp_path, tiny, "--run-config", f'mode="{mode}"', "--run-dir", str(tmp_path / "out"))
    assert code == 1, out + err
    last = err.splitlines()[-1]
    assert last.startswith(f"flotilla: the run failed: {reason}")
    assert str(tmp_path / "out.log") in last
    assert "hello from" in (tmp_path / "out.log").read_text()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_everything(tiny: Path, tmp_path: Path, signum: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        _command(tiny, "--run-config", 'mode="hang"'),
        env=_environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("replies:"):
            break
    assert len(_left_behind(tmp_path, process.pid)) > 5
    _ends_with_everything(process, signum, code, tmp_path)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("there", [4, 7])  # its folder, itself, the guard, the SuperLink; and what starts ahead
def test_a_signal_ends_what_has_just_begun(
    tiny: Path, tmp_path: Path, signum: signal.Signals, code: int, there: int
) -> None:
    process = subprocess.Popen(
        _command(tiny, "--run-config", 'mode="hang"'),
        env=_environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while len(_left_behind(tmp_path, process.pid)) < there:
        assert process.poll() is None
        time.sleep(0.01)
    _ends_with_everything(process, signum, code, tmp_path)


def _ends_with_everything(process: subprocess.Popen[str], signum: signal.Signals, code: int, tmp_path: Path) -> None:
    assert process.stdout is not None
    process.send_signal(signum)
    assert process.wait(240) == code
    process.stdout.close()
    deadline = time.monotonic() + (240 if signum == signal.SIGKILL else 0)  # then it is the guard that sweeps
    while left := _left_behind(tmp_path, process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
