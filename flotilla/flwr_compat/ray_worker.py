"""What Ray starts as a worker: it asks `ray_ahead` for a process that has imported everything, and ends.

Where nobody answers it becomes the worker itself. Started by Ray, never imported; nothing of ours is imported here.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Hand over, or stay."""
    program = str(Path(str(find_spec("ray").origin)).parent / "_private" / "workers" / "default_worker.py")  # type: ignore[union-attr]
    asked = {
        "program": program,
        "arguments": sys.argv,
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
    }
    try:
        with socket.socket(socket.AF_UNIX) as request:
            request.connect(os.environ["FLOTILLA_RAY_SOCKET"])
            socket.send_fds(request, [b" "], [1, 2])
            request.sendall(json.dumps(asked).encode())
            request.shutdown(socket.SHUT_WR)
            if request.recv(16):
                return
    except (OSError, KeyError):
        pass
    paths = Path(os.environ.get("FLOTILLA_RAY_PATHS", os.devnull)).read_text(encoding="utf-8")
    os.environ["PYTHONPATH"] = paths
    sys.path[:0] = [path for path in paths.split(os.pathsep) if path and path not in sys.path]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
