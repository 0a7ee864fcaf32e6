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

class Message:
    def __init__(self, number, node):
        self.number, self.metadata = number, self
        self.dst_node_id = node

waiting = []
InMemoryLinkState.store_message_ins = lambda state, message: waiting.append(message) or "a name"
from flotilla.flwr_compat.quick_simulation import be_quick
assert be_quick()

class State(InMemoryLinkState):
    def __init__(self): pass
    def get_message_ins(self, node_id, limit):
        found = [message for message in waiting if message.dst_node_id == node_id][:limit]
        for message in found:
            waiting.remove(message)
        return found

state, queue, stop = State(), vce_api.Queue(), threading.Event()
thread = threading.Thread(target=vce_api.add_messages_to_queue, args=(state, queue, {3: 0, 4: 1}, stop))
thread.start()
took = []
for number in range(40):
    time.sleep(0.003)
    began = time.monotonic()
    assert state.store_message_ins(Message(number, 3 + number % 2)) == "a name"
    assert queue.get(timeout=5.0).number == number
    took.append(time.monotonic() - began)
for number, node in enumerate((4, 3, 3, 5, 4)):
    state.store_message_ins(Message(number, node))
assert [queue.get(timeout=5.0).number for _ in range(4)] == [0, 1, 2, 4]
assert [message.number for message in waiting] == [3]  # for a node that is not there
stop.set()
thread.join(5.0)
assert not thread.is_alive()
print(sorted(took)[len(took) // 2])
RayBackend.terminate(None)
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_messages_go_on_when_they_come() -> None:
    assert float(run(PROGRAM)) < 0.03  # flwr looks every 0.1 s


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
