"""Our ClientApp, and one more message: burn so many seconds of CPU time and do nothing else."""

from __future__ import annotations

from time import thread_time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client_app import training
from client_app.app import app

# Forward, backward and optimiser in CPU time, so that a floor repeats the work and not the waiting for a core.
training.perf_counter = thread_time  # type: ignore[attr-defined]

__all__ = ["app"]


@app.train("burn")
def burn(message: Message, context: Context) -> Message:
    """Compute for as long as the request says, and reply with one number."""
    del context
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    seconds = config["seconds"]
    assert isinstance(seconds, float)
    end = thread_time() + seconds
    while thread_time() < end:
        pass
    return Message(content=RecordDict({"arrays": ArrayRecord({"x": Array(np.zeros(1))})}), reply_to=message)
