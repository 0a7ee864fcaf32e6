"""CPU seconds are counted of a process and of what it started, also after their parents have ended, and of no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.cpu_time import cpu_time

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

BUSY = "import time\nwhile time.process_time() < 0.6: pass\ntime.sleep(0.3)"  # which is seen
# The first child begins a session and ends before its own child, which writes on the output that we read to its end.
PROGRAM = f"""
import os, subprocess, sys, time
child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(0.5)"
subprocess.Popen([sys.executable, "-c", child, {BUSY!r}], start_new_session=True)
{BUSY}
"""


def test_descendants_count_and_others_do_not() -> None:
    with (
        subprocess.Popen([sys.executable, "-c", BUSY]) as other,
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process,
        cpu_time(process.pid) as counted,
    ):
        process.communicate(timeout=600)
        assert other.wait(600) == 0
    assert 1.2 <= counted.seconds + 0.02 < 1.7  # 0.6 each, and Python's own start four times
