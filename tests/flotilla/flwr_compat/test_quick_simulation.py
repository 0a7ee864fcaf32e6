"""flwr's simulation as it is patched: in processes of their own, which stay patched."""

from __future__ import annotations

import inspect
import subprocess
import sys

PROGRAM = """
import threading, time
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState

waiting, began = {3: []}, time.monotonic()
InMemoryLinkState.store_message_ins = lambda state, message: waiting[3].append(message) or "a name"
from flotilla.flwr_compat.quick_simulation import be_quick
assert be_quick()

class State(InMemoryLinkState):
    def __init__(self): pass
    def get_message_ins(self, node_id, limit):
        found, waiting[node_id] = waiting[node_id][:limit], waiting[node_id][limit:]
        return found

state, queue, stop = State(), vce_api.Queue(), threading.Event()
thread = threading.Thread(target=vce_api.add_messages_to_queue, args=(state, queue, {3: 0}, stop))
thread.start()
slowest = 0.0
for number in range(40):
    time.sleep(0.003)
    began = time.monotonic()
    assert state.store_message_ins(number) == "a name"
    assert queue.get(timeout=5.0) == number
    slowest = max(slowest, time.monotonic() - began)
    total = 0
assert state.store_message_ins(1) and state.store_message_ins(2)
assert [queue.get(timeout=5.0) for _ in range(2)] == [1, 2]
stop.set()
thread.join(5.0)
assert not thread.is_alive()
print(slowest)
RayBackend.terminate(None)
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_messages_go_on_when_they_come() -> None:
    assert float(run(PROGRAM)) < 0.09  # flwr looks every 0.1 s


def test_a_queue_says_soon_that_it_is_empty() -> None:
    program = """
import queue, time
from flotilla.flwr_compat.quick_simulation import _Attentive
began = time.monotonic()
try:
    _Attentive().get(timeout=1.0)
except queue.Empty:
    print(time.monotonic() - began)
waits = _Attentive()
waits.put(5)
assert waits.get() == 5
"""
    assert float(run(program)) < 0.9


def test_the_simulation_is_what_is_patched() -> None:
    from flwr.server.superlink.fleet.vce import vce_api
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState

    assert list(inspect.signature(vce_api.add_messages_to_queue).parameters) == [
        "state",
        "queue",
        "nodes_mapping",
        "f_stop",
    ]
    assert list(inspect.signature(InMemoryLinkState.store_message_ins).parameters) == ["self", "message"]
    run_api = inspect.getsource(vce_api.run_api)
    assert "target=add_messages_to_queue" in run_api  # by its name in the module, where it is replaced
    assert "Queue[Message] = Queue()" in run_api
    assert "backend.terminate()" in run_api
