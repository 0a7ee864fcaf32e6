"""Ray, started while everything else imports.

flwr's simulation starts it last and waits for parts that nobody uses. Loaded by path, like the program that uses it
(`app_process`); nothing of ours is imported here. Three things differ from `ray.init`, which flwr would call (flwr
1.41, Ray 2.55):

- Ray's own processes are started by a child of the app process, without the dashboard's server (`ray.init` waits for
  it, and with the dashboard off it only reports usage) and without the autoscaler's monitor.
- Workers have no runtime environment, so that Ray need not start a second interpreter before each and uses those that
  it starts ahead; where the bundle is they know from the process that they come from.
- Workers are forked from a copy of the app process that has imported PyTorch, Flower and the ClientApp, where each
  would import for seconds. Ray starts `ray_worker.py` for each, which asks for one. As with `multiprocessing`'s fork
  server, that copy has run no operation and has no threads of its own. It has not imported Ray either, whose library
  keeps for good what it finds in the environment.

Where a part is not as it is here, flwr starts Ray as it always does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_WORKER = Path(__file__).with_name("ray_worker.py")
# Where workers ask for their process, and where they find the import path if nobody answers; in their environment.
SOCKET, PATHS = "FLOTILLA_RAY_SOCKET", "FLOTILLA_RAY_PATHS"
_TRIES = 4  # Ray waits 30 s for its own processes, which is too short where others use the machine as well
_MOST = 1 << 20  # bytes that a worker's command line and environment may have


class RayAhead:
    """Ray's processes of one run. They end when this process does, however it ends.

    Args:
        cpus: how many CPUs Ray is to believe in; None: as many as there are.
        home: private folder for Ray's files and for sockets.
    """

    def __init__(self, cpus: int | None, home: Path) -> None:
        self._socket, self._paths = str(home / "workers"), str(home / "python-path")
        self._address, told = os.pipe()
        ended, self._held = os.pipe()  # nobody writes to it; it is closed when this process ends
        self._ended = ended
        _fork(_be_head, told, ended, cpus, {SOCKET: self._socket, PATHS: self._paths}, [self._address, self._held])
        os.close(told)

    def offer_workers(self) -> None:
        """Open the place where workers come from: what this process has imported they have, and its import path.

        Raises:
            RuntimeError: Ray is among what it has imported.
        """
        if "ray" in sys.modules:
            raise RuntimeError("workers find another environment than this process")
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        Path(self._paths).write_text(os.environ["PYTHONPATH"], encoding="utf-8")
        with socket.socket(socket.AF_UNIX) as place:
            place.bind(self._socket)
            place.listen(64)
            _fork(_be_nursery, place, self._ended, [self._held])

    def connect(self) -> bool:
        """Make this process Ray's driver; False where Ray could not be started."""
        import ray

        with os.fdopen(self._address, "r", encoding="utf-8") as told:
            address = told.readline().strip()
        if not address:
            return False
        for _ in range(_TRIES):
            with contextlib.suppress(Exception):
                ray.init(address=address, logging_level=logging.WARNING, log_to_driver=True)
                return True
            ray.shutdown()
        return False


def _fork(work: Callable[..., None], *arguments: Any) -> None:
    """Do some work in a child, which never returns from here; the last argument is what it closes first."""
    if os.fork():
        return
    code = 1
    with contextlib.suppress(BaseException):
        *given, unwanted = arguments
        for pipe in unwanted:
            os.close(pipe)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):  # the output that flotilla reads ends with the app process
            os.dup2(nothing, number)
        work(*given)
        code = 0
    os._exit(code)


def _be_head(told: int, ended: int, cpus: int | None, environment: dict[str, str]) -> None:
    """Start Ray's processes, say where, and wait for the app process to end; the kernel then ends them."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from ray._private import parameter, services
    from ray._private.node import Node

    def no_server(*_: object, **__: object) -> tuple[str, None]:
        return "", None

    os.environ.update(environment)
    services.start_api_server = no_server
    parameters = parameter.RayParams(num_cpus=cpus, include_dashboard=False, no_monitor=True, worker_path=str(_WORKER))
    node = Node(parameters, head=True, shutdown_at_exit=False, spawn_reaper=True)
    with os.fdopen(told, "w", encoding="utf-8") as answer:
        print(node.address, file=answer)
    os.read(ended, 1)


def _be_nursery(place: socket.socket, ended: int) -> None:
    """Fork a worker for each request, until the app process ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers
    watched: list[Any] = [place, ended]
    while place in select.select(watched, [], [])[0]:
        request, _ = place.accept()
        with request:
            asked, pipes = _received(request)
            pid = os.fork()
            if not pid:
                place.close()
                request.close()
                os.close(ended)
                _be_worker(json.loads(asked), pipes)
            request.sendall(str(pid).encode())
        for pipe in pipes:
            os.close(pipe)


def _received(request: socket.socket) -> tuple[bytes, list[int]]:
    """A request up to its end, and the standard output and error that came with it."""
    data, pipes, _, _ = socket.recv_fds(request, 1 << 16, 2)
    while len(data) <= _MOST and (more := request.recv(1 << 16)):
        data += more
    return data, pipes


def _be_worker(asked: dict[str, Any], pipes: list[int]) -> NoReturn:
    """Be the process that Ray wanted to start."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, pipe in enumerate(pipes, 1):
            os.dup2(pipe, number)
            os.close(pipe)
        wanted = {**asked["environment"], "PYTHONPATH": os.environ["PYTHONPATH"]}
        # Only what differs: Ray finds where a process's title stands by the environment that it was started with.
        for name in os.environ.keys() - wanted.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in wanted.items() if os.environ.get(name) != value})
        os.chdir(asked["cwd"])
        if "OMP_NUM_THREADS" not in os.environ and "torch" in sys.modules:
            # Ray sets this to 1 for a task of one CPU, but OpenMP has read it already.
            importlib.import_module("torch").set_num_threads(1)
        with contextlib.suppress(Exception):
            importlib.import_module(f"{__package__}.ray_arrays").beside_pickles()
        sys.argv = asked["arguments"]
        runpy.run_path(asked["program"], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
