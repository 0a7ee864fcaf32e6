"""Load a bundle's ClientApp once, so that a process can be forked for each message as if it had loaded it itself.

What a fork takes along that a process of its own would not have, and what is done about it:

- Threads do not survive a fork, and who waits for one of libgomp's waits for ever. PyTorch computes in one thread while
  the app is imported, and in as many as before, or as the app asked for, in each message's process.
- CUDA cannot be used in the child of a process that has begun to use it. Whether there is a GPU is looked up with NVML
  while the app is imported, which does not begin it.
- The state of random generators. Python's, NumPy's and PyTorch's own are seeded anew for each message, from the
  operating system, unless the app seeded them when it was imported: then each message begins there, as with Flower's.

An app that has threads all the same when it is imported, or has begun to use CUDA, is not forked from.

Loaded by the program `executor`, by path; nothing of ours is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.config import get_project_dir
from flwr.proto.runtime_pb2 import PullTaskInputResponse
from flwr.supercore.utils import get_flwr_home

_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
_SEEDS: dict[str, Callable[[], Any]] = {"python": random.seed, "numpy": np.random.seed, "torch": torch.seed}
# What is noted while the app is imported, and where.
_NOTED = (
    ("python", random, "seed"),
    ("numpy", np.random, "seed"),
    ("torch", torch, "manual_seed"),
    ("torch", torch.random, "manual_seed"),
    ("threads", torch, "set_num_threads"),
)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An app, and what a message's process has to do before it uses it.

    Attributes:
        app: or why it cannot be loaded.
        threads: that PyTorch computes in.
        seeded: the generators that the app has seeded itself.
        drawn: state of Python's own, which a fork seeds anew.
        forkable: whether a child of this process can use it.
    """

    app: ClientApp | Exception
    threads: int
    seeded: frozenset[str]
    drawn: tuple[Any, ...]
    forkable: bool

    def settle(self) -> None:
        """Be as if the app had been loaded in this process, which was forked."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        for name in _SEEDS.keys() - self.seeded:
            _SEEDS[name]()
        if "python" in self.seeded:
            random.setstate(self.drawn)


def load(task: PullTaskInputResponse) -> Loaded:
    """Unpack the bundle of a task, if it is not there, and import its app."""
    for seed in _SEEDS.values():
        seed()
    threads, asked, before = torch.get_num_threads(), dict[str, Any](), os.environ.get(_BY_NVML)
    torch.set_num_threads(1)
    os.environ[_BY_NVML] = "1"
    app: ClientApp | Exception
    try:
        with _noting(asked):
            app = _import(task)
    except Exception as error:
        app = error
    finally:
        os.environ.pop(_BY_NVML)
        if before is not None:
            os.environ[_BY_NVML] = before
    loaded = Loaded(
        app=app,
        threads=asked.get("threads", threads),
        seeded=frozenset(asked) & _SEEDS.keys(),
        drawn=random.getstate(),
        forkable=_threads() == 1 and not _uses_cuda(),
    )
    if not loaded.forkable and "threads" not in asked:
        torch.set_num_threads(threads)
    return loaded


@contextlib.contextmanager
def _noting(asked: dict[str, Any]) -> Iterator[None]:
    """Note what the app asks for when it is imported: number of threads, seeds."""

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if (value := next(iter([*arguments, *named.values()]), None)) is not None:
                asked[name] = value
            return real(*arguments, **named)

        return call

    real = [getattr(module, function) for _, module, function in _NOTED]
    for (name, module, function), one in zip(_NOTED, real, strict=True):
        setattr(module, function, noting(name, one))
    try:
        yield
    finally:
        for (_, module, function), one in zip(_NOTED, real, strict=True):
            setattr(module, function, one)


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _threads() -> int:
    """How many threads this process has, those of libraries too where the system says so."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _import(task: PullTaskInputResponse) -> ClientApp:
    run, fab = task.run, task.fab
    home, folder = get_flwr_home(), get_project_dir(run.fab_id, run.fab_version, fab.hash_str)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The other nodes of this host wait until it is there, and not while it is imported, which may take for ever.
        with (home / "loading.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in home.glob("unpacking-*"):  # by who was killed: only the lock's holder makes them
                shutil.rmtree(left, ignore_errors=True)
            if not folder.exists():
                # In one step: flwr would use what is half there as it is.
                with tempfile.TemporaryDirectory(dir=home, prefix="unpacking-") as staged:
                    install_from_fab(fab.content, Path(staged), skip_prompt=True).rename(folder)
    return get_load_client_app_fn("", None, True)(run.fab_id, run.fab_version, fab.hash_str)
