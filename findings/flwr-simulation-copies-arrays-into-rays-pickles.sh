#!/usr/bin/env bash
# flwr 1.41.0's simulation with ray 2.55.1: an array of a message (flwr.app.Array) holds its data as bytes. Ray pickles with protocol 5,
# which moves buffers beside the pickle (PEP 574), and does so for NumPy arrays; bytes are copied into the pickle. So each message's state
# is copied into a pickle, from there into Ray's frame, into its store, and back in as many steps, in every request anew although all
# carry one object. Told to pickle the same bytes as a buffer, Ray moves them once; they come back as bytes, equal to what was sent.
# Seen: of 6,400,000 bytes 6,400,505 are in a message's pickle and none beside; as a buffer 389 and all.
# For our users: that is what runs through Ray do (flotilla/flwr_compat/ray_arrays.py). Timed by hand on two cores, which this does not
# repeat: a message of 6.4 MB to an actor and back took 33 ms as it is and 12 ms so.
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "flwr[simulation]==1.41.0" "ray==2.55.1"
env/bin/python -W ignore - <<'PYTHON'
import copyreg
import pickle

import flwr
import numpy as np
import ray
from flwr.app import Array, ArrayRecord, RecordDict
from ray import cloudpickle

state = np.zeros(1_600_000, dtype=np.float32)
message = RecordDict({"arrays": ArrayRecord({"state": Array(state)})})


class Beside:
    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return bytes, (pickle.PickleBuffer(self.data),)


def reduced(array):
    return copyreg.__newobj__, (Array,), {**vars(array), "data": Beside(array.data)}


def pickled(value):
    beside = []
    return cloudpickle.dumps(value, protocol=5, buffer_callback=beside.append), beside


found = {"a NumPy array": pickled(state), "a message": pickled(message)}
cloudpickle.CloudPickler.dispatch[Array] = reduced
found["a message, its bytes as a buffer"] = pickled(message)
for what, (frame, beside) in found.items():
    print(f"flwr {flwr.__version__}, ray {ray.__version__}: {what} of {state.nbytes} bytes: {len(frame)} in the pickle, {len(beside)} buffers beside")
frame, beside = found["a message, its bytes as a buffer"]
again = cloudpickle.loads(frame, buffers=[memoryview(one.raw().tobytes()) for one in beside])
print("it comes back equal:", again == message, type(again["arrays"]["state"].data).__name__)
small = [len(frame) < 10_000 and len(beside) == 1 for frame, beside in found.values()]
raise SystemExit(0 if small == [True, False, True] and again == message else 1)
PYTHON
