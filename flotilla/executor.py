"""A SuperExec that keeps flwr and torch loaded: each message's ClientApp process is forked from it.

Flower starts a new Python for every message, which imports flwr and torch before it does anything: seconds of CPU on a
server, tens of seconds on a small board. Here the imports are done once, and a fork takes milliseconds. The isolation
is the same: one process for each message, with the app's code from the bundle alone. What is loaded is shared between
this process and its children, so a device's peak of memory is lower, and its idle share higher, than with Flower's.

Started as a script (`python executor.py --runtime-api-address HOST:PORT …`) beside `flower-supernode --isolation
process`; nothing of ours is imported here, and flotilla never imports it. Several addresses: one process forked for
each, which is what `flotilla federation` does for the SuperNodes of one host.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch  # so that no child has to
from flwr.clientapp import ClientApp
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.utils import get_flwr_home
from flwr.supernode.runtime.run_clientapp import run_clientapp

_POLL = float(os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.2"))  # seconds
_PAUSE = 1.0  # seconds before a SuperNode that does not answer is asked again
_PRELOADED = (torch, ClientApp)
# What Flotilla's clients import as well, each where it is installed: up to five seconds of CPU for every message.
_WORTH_LOADING = ("safetensors.torch", "sklearn.datasets", "flwr_datasets.partitioner")


def main() -> None:
    """Parse, load, serve."""
    parser = argparse.ArgumentParser(description="Run ClientApps, with flwr and torch loaded once.")
    parser.add_argument("--runtime-api-address", action="append", required=True, help="of a SuperNode; repeatable")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--root-certificates", type=Path, help="certificate that vouches for the SuperNodes")
    trust.add_argument("--insecure", action="store_true", help="the SuperNodes have no TLS")
    parser.add_argument("--superexec-auth-secret-file", help="the secret that the SuperNodes have")
    parser.add_argument("--alive", type=Path, help="file to touch at every look for work, for a health check")
    options = parser.parse_args()
    root = None if options.insecure else options.root_certificates.read_bytes()
    secret = options.superexec_auth_secret_file
    secret = load_superexec_auth_secret(secret_file=secret) if secret else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    for name in _WORTH_LOADING:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # the collector must not touch, and so copy, what the children share
    addresses = options.runtime_api_address
    if len(addresses) == 1:
        serve(addresses[0], root, secret, options.alive)
        return
    children = {fork(_serve_apart, address, root, secret): address for address in addresses}
    while True:
        pid, _ = os.wait()
        address = children.pop(pid)
        time.sleep(_PAUSE)
        children[fork(_serve_apart, address, root, secret)] = address


def _serve_apart(address: str, root: bytes | None, secret: bytes | None) -> None:
    """Serve one of several SuperNodes, with a FLWR_HOME of its own: flwr unpacks bundles without any locking."""
    os.environ["FLWR_HOME"] = str(get_flwr_home() / address.replace(":", "-"))
    serve(address, root, secret)


def serve(address: str, root: bytes | None, secret: bytes | None, alive: Path | None = None) -> None:
    """Claim the tasks of one SuperNode and fork a process for each, until the process that started us is gone."""
    interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if secret:
        acquiring = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        interceptors.append(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=acquiring))
    client = RuntimeHttpClient.from_server_address(address, root is None, root, interceptors)
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    parent = os.getppid()
    while os.getppid() == parent:
        if alive:
            alive.touch()
        try:
            task = client.AcquireTask(request)
        except httpx.HTTPError:
            time.sleep(_PAUSE)
            continue
        if task.token:
            fork(_run, address, root, task.token)
        _bury()
        time.sleep(_POLL)


def fork(work: Callable[..., None], *arguments: Any) -> int:
    """Do some work in a child, which never returns from here; the child's process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(address: str, root: bytes | None, token: str) -> None:
    run_clientapp(
        runtime_api_address=address, token=token, insecure=root is None, certificates=root, parent_pid=os.getppid()
    )


def _bury() -> None:
    """Collect the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if os.WIFSIGNALED(found[1]):  # perhaps while it unpacked the bundle: flwr would use what is there as it is
                shutil.rmtree(get_flwr_home() / "apps", ignore_errors=True)


if __name__ == "__main__":
    main()
