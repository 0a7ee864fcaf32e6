"""The run folder: one writer, nothing lost to a kill, last and best never confused."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from models.errors import SettingError
from server_app import environment
from server_app.folder import files, run_folder
from server_app.folder import lock as run_lock
from server_app.folder.files import dumps, plain
from server_app.folder.lock import LOCK
from server_app.folder.run_folder import CONFIG, METRICS, SUMMARY, RunFolder, read_metrics

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"method": "heterofl", "seed": 1, "num-server-rounds": 20, "tiers": {"a": "1", "b": "1/2"}}
HOLD = (
    "import sys, time, pathlib; from server_app.folder.run_folder import RunFolder as R; "
    "r = R.create(pathlib.Path({!r}))"
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "runs" / "first") as folder:
        yield folder


def row(number: int, accuracy: float | None = None, **more: Any) -> dict[str, Any]:
    if accuracy is None:
        return {"round": number, **more}
    return {"round": number, "loss": 1 - accuracy, "accuracy": accuracy, "tiers": {"a": {"accuracy": accuracy}}, **more}


def hold(path: Path) -> subprocess.Popen[str]:
    """A live process that holds a run folder."""
    code = HOLD.format(str(path)) + "; print('held', flush=True); time.sleep(3600)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_folder_that_holds_a_run_is_refused_and_unlocked(run: RunFolder) -> None:
    run.write_config(SETTINGS)
    run.close()
    with pytest.raises(SettingError, match=r"run-dir = .*first.*holds a run"):
        RunFolder.create(run.path)
    assert not (run.path / LOCK).exists()


def test_a_folder_with_only_foreign_files_is_taken(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("hello")
    RunFolder.create(tmp_path).close()


@pytest.mark.parametrize("name", ["latest", "file", "file/below"])
def test_a_path_that_cannot_be_a_run_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="run-dir"):
        RunFolder.create(tmp_path / name)


def test_a_folder_in_use_is_refused_with_the_pid_until_its_process_is_killed(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(SettingError, match=f"run-dir = .*pid {process.pid} on this host"):
            RunFolder.create(tmp_path / "run")
    finally:
        end(process)
    RunFolder.create(tmp_path / "run").close()  # the lock is stale now


def test_a_dead_process_that_nobody_has_waited_for_holds_nothing(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    RunFolder.create(tmp_path / "run").close()
    end(process)


def test_this_process_cannot_take_a_folder_twice(run: RunFolder) -> None:
    with pytest.raises(SettingError, match=f"pid {os.getpid()} on this host"):
        RunFolder.create(run.path)


def test_the_lock_of_a_recycled_pid_is_taken_over(tmp_path: Path) -> None:
    mine = run_lock._started(os.getpid())
    lock = {"pid": os.getpid(), "host": socket.gethostname(), "started": mine - 100}
    (tmp_path / LOCK).write_text(json.dumps(lock))
    with RunFolder.create(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["started"] == pytest.approx(mine)


def test_a_lock_of_another_host_is_left_alone_and_explained(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": 1.0}))
    with pytest.raises(SettingError, match=r"pid 1 on host elsewhere.*delete .*lock"):
        RunFolder.create(tmp_path)


@pytest.mark.parametrize("text", ["", '{"pid": 1', "[]"])
def test_a_lock_whose_writer_died_on_it_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    RunFolder.create(tmp_path).close()


def test_of_many_processes_at_a_stale_lock_one_wins(tmp_path: Path) -> None:
    lock = {"pid": 2**22 + 1, "host": socket.gethostname(), "started": 1.0}
    (tmp_path / LOCK).write_text(json.dumps(lock))
    (go, start), (wait, stop), (said, say) = os.pipe(), os.pipe(), os.pipe()
    crowd = []
    for _ in range(8):  # forks, as a fresh process would spend seconds on imports and seldom meet another
        crowd.append(os.fork())
        if crowd[-1] == 0:
            try:
                os.close(start)
                os.close(stop)
                os.read(go, 1)  # all begin when the other end closes
                RunFolder.create(tmp_path)
                os.write(say, b"held ")
            except SettingError:
                os.write(say, b"refused ")
            finally:
                os.read(wait, 1)
                os._exit(0)
    os.close(start)
    heard = b""
    while len(heard.split()) < len(crowd) or not heard.endswith(b" "):
        heard += os.read(said, 100)
    os.close(stop)
    for child in crowd:
        os.waitpid(child, 0)
    for end_of_pipe in (go, wait, said, say):
        os.close(end_of_pipe)
    assert sorted(heard.split()) == [b"held"] + [b"refused"] * 7


def test_the_lock_goes_at_exit_but_not_with_a_forked_child(tmp_path: Path) -> None:
    code = HOLD.format(str(tmp_path)) + "; import os; p = os.fork(); p or (r.close(), os._exit(0)); os.waitpid(p, 0)"
    code += f"; assert pathlib.Path({str(tmp_path / LOCK)!r}).exists()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert not (tmp_path / LOCK).exists()


def test_config_records_settings_and_surroundings(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_COMMIT", "abc123")
    run.write_config(SETTINGS)
    config = json.loads((run.path / CONFIG).read_text())
    assert config["config"] == SETTINGS
    assert config["commit"] == "abc123"
    assert set(config["versions"]) == {"python", "flwr", "torch", "torchvision", "numpy", "ray", "gpu"}
    assert config["threads"]["torch"] == torch.get_num_threads()


def test_a_missing_git_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("FLOTILLA_COMMIT", raising=False)
    assert environment.surroundings()["commit"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed is 1 there, 2 now"),
        ({"tiers": {"a": "1", "b": "1/4"}}, r'tiers is .*"1/2".* there, .*"1/4".* now'),
        ({"new": True}, "new is not set there, true now"),
    ],
)
def test_resume_names_the_first_key_that_differs(run: RunFolder, change: dict[str, Any], message: str) -> None:
    run.write_config(SETTINGS)
    run.close()
    with pytest.raises(SettingError, match=r"resume = .*" + message):
        RunFolder.reopen(run.path, {**SETTINGS, **change})
    RunFolder.reopen(run.path, {**SETTINGS, **change}, free=frozenset(change)).close()


def test_resume_checks_what_the_bits_depend_on(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_config(SETTINGS)
    run.close()
    now = environment.surroundings()
    monkeypatch.setattr(run_folder, "surroundings", lambda: {**now, "threads": {**now["threads"], "torch": 999}})
    with pytest.raises(SettingError, match=r"threads\.torch is \d+ there, 999 now"):
        RunFolder.reopen(run.path, SETTINGS)
    RunFolder.reopen(run.path, SETTINGS, free=frozenset({"threads.torch"})).close()


@pytest.mark.parametrize("text", [None, "{", "[]", '{"config": 1}', "{}"])
def test_resume_refuses_what_is_no_run_folder(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / CONFIG).write_text(text)
    with pytest.raises(SettingError, match=r"resume = .*a run folder with a config\.json"):
        RunFolder.reopen(tmp_path, SETTINGS)


def test_resume_refuses_a_folder_in_use_and_follows_latest(run: RunFolder) -> None:
    run.write_config(SETTINGS)
    with pytest.raises(SettingError, match=r"resume = .*pid"):
        RunFolder.reopen(run.path, SETTINGS)
    run.close()
    with RunFolder.reopen(run.path.parent / "latest", SETTINGS) as again:
        assert again.path == run.path.resolve()


def test_metrics_come_back_and_are_valid_json_whatever_the_numbers(run: RunFolder) -> None:
    run.append_metrics({"round": 1, "loss": math.nan, "accuracy": np.float32(0.5), "tiers": {"a": -math.inf}})
    run.append_metrics({"round": np.int64(2), "loss": torch.tensor(1.5), "selected": (3, 4), "rate": Path("x")})
    text = (run.path / METRICS).read_text()
    assert [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()] == run.metrics()
    assert run.metrics() == [
        {"round": 1, "loss": None, "accuracy": 0.5, "tiers": {"a": None}},
        {"round": 2, "loss": 1.5, "selected": [3, 4], "rate": "x"},
    ]


def test_the_torn_line_of_a_killed_process_is_dropped_on_reopening(run: RunFolder) -> None:
    run.write_config(SETTINGS)
    run.append_metrics(row(1, 0.5))
    run.close()
    with open(run.path / METRICS, "a") as stream:
        stream.write('{"round": 2, "acc')
    assert [line["round"] for line in read_metrics(run.path)] == [1]  # a reader beside a live run
    with RunFolder.reopen(run.path, SETTINGS) as again:
        again.append_metrics(row(2, 0.6))
        assert [line["round"] for line in again.metrics()] == [1, 2]


@pytest.mark.parametrize("line", ["{", "[]", '{"loss": 1}', "null", '{"round": "2"}', "[" * 100_000])
def test_a_damaged_line_costs_that_line_and_is_named(
    run: RunFolder, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    run.append_metrics(row(1))
    with open(run.path / METRICS, "a") as stream:
        stream.write(line + "\n")
    run.append_metrics(row(2))
    assert [one["round"] for one in run.metrics()] == [1, 2]
    assert "metrics.jsonl, line 2 is left out" in caplog.text


def test_a_full_disk_leaves_no_half_line(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append_metrics(row(1))
    write, calls = os.write, []

    def filling(fd: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(fd, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", filling)
        with pytest.raises(OSError, match="No space left"):
            run.append_metrics(row(2))
    run.append_metrics(row(2))
    assert [line["round"] for line in run.metrics()] == [1, 2]


def test_truncating_forgets_the_later_rounds(run: RunFolder) -> None:
    for number in range(1, 6):
        run.append_metrics(row(number, 0.1 * number))
    before = (run.path / METRICS).read_text().splitlines()
    run.truncate_metrics(after_round=3)
    assert (run.path / METRICS).read_text().splitlines() == before[:3]
    run.truncate_metrics(after_round=0)
    assert run.metrics() == []


def test_summary_tells_last_from_best(run: RunFolder) -> None:
    rows = [row(1, 0.5), row(2, 0.9), row(3), row(4, 0.9), row(5, 0.7), row(6)]
    for line in rows:
        run.append_metrics(line)
    tiers = {"a": {"parameters": 10, "macs": 20, "bytes_down": 40, "bytes_up": 41}, "b": {"parameters": 5}}
    summary = run.write_summary("finished", tiers)
    assert summary == json.loads((run.path / SUMMARY).read_text())
    assert (summary["status"], summary["rounds"]) == ("finished", 6)
    assert (summary["last"]["round"], summary["best"]["round"]) == (5, 2)
    assert summary["last"]["tiers"]["a"] == {"accuracy": 0.7, **tiers["a"]}
    nothing = {"accuracy": None, "parameters": 5, "macs": None, "bytes_down": None, "bytes_up": None}
    assert summary["best"]["tiers"]["b"] == nothing


@pytest.mark.parametrize("rows", [[], [row(1), row(2)]])
def test_summary_of_a_run_that_was_never_evaluated(run: RunFolder, rows: list[dict[str, Any]]) -> None:
    for line in rows:
        run.append_metrics(line)
    summary = run.write_summary("failed", {}, error="no data")
    nothing: dict[str, Any] = {"last": None, "best": None, "best_of_tier": {}, "model": None}
    assert summary == {"status": "failed", "rounds": len(rows), "error": "no data", **nothing}


def test_an_accuracy_that_is_nan_is_last_but_never_best(run: RunFolder) -> None:
    run.append_metrics(row(1, 0.2))
    run.append_metrics(row(2, math.nan))
    summary = run.write_summary("stopped", {})
    assert (summary["best"]["round"], summary["last"]["round"], summary["last"]["accuracy"]) == (1, 2, None)


def test_latest_points_to_the_newest_run(run: RunFolder) -> None:
    latest = run.path.parent / "latest"
    assert os.readlink(latest) == "first"
    with RunFolder.create(run.path.parent / "second"):
        assert os.readlink(latest) == "second"
    assert sorted(path.name for path in latest.parent.iterdir()) == ["first", "latest", "second"]


def test_a_file_system_without_links_or_a_folder_called_latest_is_tolerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latest" / "kept").mkdir(parents=True)
    RunFolder.create(tmp_path / "one").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one"]

    def no_links(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    RunFolder.create(tmp_path / "two").close()


def test_a_killed_replacement_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.replace_text(tmp_path / "x", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(OSError, match="I/O error"):
            files.replace_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_plain_is_idempotent_and_its_dump_is_sorted_for_sets() -> None:
    value = {"set": {"b", "a"}, 1: [math.nan, (True, None)], "np": np.arange(2)}
    assert plain(plain(value)) == plain(value)
    assert json.loads(dumps(value))["set"] == ["a", "b"]


def test_a_resumed_run_trains_every_tier_in_the_way_that_it_did(run: RunFolder) -> None:
    run.write_config(SETTINGS, {"a": "fused", "b": "loop: a GroupNorm"})
    run.close()
    again = {"a": "fused", "b": "loop: a GroupNorm"}
    RunFolder.reopen(run.path, SETTINGS, trained=again).close()
    with pytest.raises(SettingError, match=r'trained\.a is "fused" there, "loop: train-as is loop" now'):
        RunFolder.reopen(run.path, SETTINGS, trained=again | {"a": "loop: train-as is loop"})
