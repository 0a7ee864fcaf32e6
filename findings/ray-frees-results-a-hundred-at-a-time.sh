#!/usr/bin/env bash
# ray 2.55.1: what a worker returns lies in Ray's store until nobody refers to it, and a little longer: a node gives back what is free
# once a second, or a hundred objects at a time (free_objects_period_milliseconds, free_objects_batch_size). So of results that are
# asked for one after the other, each dropped before the next, most lie on pages of the store that their worker has not written to yet: a
# page fault for every 4 KiB, which for results of megabytes takes the system as long as the copy. With RAY_free_objects_batch_size=1
# the next result lies where the last one was.
# Seen: a result of 6,400,000 bytes takes 903, 1098 and 1567 page faults of its worker in three runs (means of 40), and 5, 5 and 44 with a batch of one.
# For our users: runs through Ray set it to 1 (flotilla/superlink/superlink.py, docs/flower.md), not on a cluster that they join.
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "ray==2.55.1" numpy
cat > faults.py <<'PYTHON'
import logging
import resource
import sys

import numpy as np
import ray

BYTES = 6_400_000
ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, object_store_memory=1 << 30)


@ray.remote
class Worker:
    def __init__(self):
        self.result = np.ones(BYTES // 4, dtype=np.float32)

    def answer(self):
        return self.result

    def faults(self):
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


worker = Worker.remote()
for _ in range(5):
    ray.get(worker.answer.remote())
before = ray.get(worker.faults.remote())
for _ in range(40):
    ray.get(worker.answer.remote())
print((ray.get(worker.faults.remote()) - before) // 40)
print(f"ray {ray.__version__}, {sys.argv[1]}: page faults of the worker for a result of {BYTES} bytes, mean of 40", file=sys.stderr)
PYTHON
default=$(env -u RAY_free_objects_batch_size env/bin/python -W ignore faults.py "as it is" 2> said)
tail -n 1 said
single=$(RAY_free_objects_batch_size=1 env/bin/python -W ignore faults.py "RAY_free_objects_batch_size=1" 2> said)
tail -n 1 said
echo "as it is $default, in batches of one $single"
[ "$default" -gt 300 ] && [ $((single * 10)) -lt "$default" ]
