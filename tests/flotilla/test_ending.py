"""A command ends with its code and without taking PyTorch apart, and all that Python does at the end is done."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time, types
from flotilla.ending import ends_at_once

class Slow:
    def __del__(self):
        print("taken apart")

sys.modules["kept"] = kept = types.ModuleType("kept")
kept.slow = Slow()
kept.itself = kept
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread"))).start()
{torch}
with ends_at_once():
    print("begun")
    sys.exit({code})
"""
TORCH = 'sys.modules["torch"] = types.ModuleType("torch")'


def ended(torch: str, code: str) -> tuple[int, list[str], str]:
    program = PROGRAM.replace("{torch}", torch).replace("{code}", code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(("code", "number"), [("", 0), ("0", 0), ("2", 2), ("130", 130)])
def test_with_pytorch_nothing_is_taken_apart(code: str, number: int) -> None:
    assert ended(TORCH, code) == (number, ["begun", "a thread", "registered"], "")


@pytest.mark.parametrize(("torch", "code", "number"), [("", "3", 3), (TORCH, "'no'", 1)])
def test_else_a_process_ends_as_ever(torch: str, code: str, number: int) -> None:
    status, out, _ = ended(torch, code)
    assert status == number
    assert "taken apart" in out


def test_an_error_is_an_error() -> None:
    status, _, err = ended(TORCH, "1 / 0")
    assert status == 1
    assert "ZeroDivisionError" in err


def test_output_that_nobody_reads_is_no_error() -> None:
    program = PROGRAM.replace("{torch}", TORCH).replace("{code}", "0")
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(600) == 0
