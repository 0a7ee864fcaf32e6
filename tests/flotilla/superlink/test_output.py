from __future__ import annotations

import pytest

from flotilla.superlink.output import is_noise, last_error
from flotilla.superlink.run import exit_code, federation


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("finished:completed", 0),
        ("finished:failed", 1),
        ("finished:stopped", 1),
        ("running", 1),
        ("pending", 1),
        ("", 1),
        ("unknown (ConnectError)", 1),
    ],
)
def test_only_completed_is_success(status: str, code: int) -> None:
    assert exit_code(status) == code


def test_federation() -> None:
    assert federation(20, None, 0.0) == {
        "num_supernodes": 20,
        "client_resources_num_cpus": 1,
        "client_resources_num_gpus": 0.0,
    }
    assert federation(20, 3, 0.5)["init_args_num_cpus"] == 3
    assert federation(20, 3, 0.5)["client_resources_num_gpus"] == 0.5


@pytest.mark.parametrize(
    ("line", "noise"),
    [
        ("\x1b[92mINFO \x1b[0m:      Starting Flower Simulation\n", True),
        ("\x1b[36m(ClientAppActor pid=1)\x1b[0m WARNING :   Manually terminating ClientAppActor", True),
        ("\x1b[91mERROR \x1b[0m:   Simulation raised an exception", False),
        ("(raylet) Raylet is terminated. Termination is unexpected.", True),
        ("    [state-dump] DebugString() time ms: 0", True),
        ("    [2026-11-29 11:54:15,525 I 21204 21204] (raylet) local_resource_manager.cc:349: idle.", True),
        ("(raylet) A worker died because it used too much memory", False),
        ("flotilla: a worker was lost", False),
        ("round  1/20  97.1 %", False),
        ("", False),
    ],
)
def test_noise(line: str, noise: bool) -> None:
    assert is_noise(line) is noise


def test_last_error_looks_through_the_wrappers() -> None:
    log = """ERROR :     Traceback (most recent call last):
  File "x.py", line 1, in f
    raise ValueError("inner: too big")
ValueError: inner: too big

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "y.py", line 2, in g
RuntimeError: Simulation Runtime crashed.

Traceback (most recent call last):
  File "z.py", line 3, in h
RuntimeError: An error was encountered. Ending simulation.
done: all
"""
    assert last_error(log.splitlines()) == "ValueError: inner: too big"
    assert last_error(["RuntimeError: not in a traceback"]) is None
    assert last_error(["Traceback (most recent call last):", "  x", "models.errors.SettingError: a = 1"]) == (
        "models.errors.SettingError: a = 1"
    )
    assert last_error(["Traceback (most recent call last):", "  x", "KeyboardInterrupt"]) == "KeyboardInterrupt"
