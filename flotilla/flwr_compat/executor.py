"""A SuperExec that keeps flwr, torch and the app loaded: each message's ClientApp process is forked.

Flower starts a new Python for every message, which imports flwr and torch before it does anything, then unpacks the
bundle and imports the app: seconds of CPU on a server, tens of seconds on a small board. Here the imports are done
once, the app is loaded once for each bundle (`warm_app.py`), and a fork takes milliseconds. There is one process for
each message all the same, with the app's code from the bundle alone; what the app made when it was imported is shared
by its messages. Memory is shared too, so a device's peak of it is lower, and its idle share higher, than with Flower's.

This process talks to the SuperNode, over connections that stay; the ClientApp gets its request through a socket. One
that is killed says nothing, and flwr's SuperNode would wait a minute for it and begin nothing else: here its socket
closes, and an error goes out in its place at once. The SuperNode hears of a reply when all of it is here.

Started as a script (`python executor.py --runtime-api-address HOST:PORT …`) beside `flower-supernode --isolation
process`; nothing of ours is imported here but what stands beside it, and flotilla never imports it. Several addresses:
one process forked for each, which is what `flotilla federation` does for the SuperNodes of one host.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import torch  # so that no child has to
from flwr.clientapp import ClientApp
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

_POLL = float(os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.2"))  # seconds
_PAUSE = 1.0  # seconds before a SuperNode that does not answer is asked again
_PRELOADED = (torch, ClientApp)
# What Flotilla's clients import as well, each where it is installed: up to five seconds of CPU for every bundle.
_WORTH_LOADING = ("safetensors.torch", "sklearn.datasets", "flwr_datasets.partitioner")


def _beside(name: str) -> Any:
    """A module of this folder, under another name: the package that it belongs to must come from the bundle."""
    found = importlib.util.spec_from_file_location(f"_flotilla_{name}", Path(__file__).with_name(f"{name}.py"))
    assert found is not None
    assert found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


_beside("load_app")
warm = _beside("warm_app")
node_tasks = _beside("node_tasks")


def main() -> None:
    """Parse, load, serve."""
    parser = argparse.ArgumentParser(description="Run ClientApps, with flwr, torch and the app loaded once.")
    parser.add_argument("--runtime-api-address", action="append", required=True, help="of a SuperNode; repeatable")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--root-certificates", type=Path, help="certificate that vouches for the SuperNodes")
    trust.add_argument("--insecure", action="store_true", help="the SuperNodes have no TLS")
    parser.add_argument("--superexec-auth-secret-file", help="the secret that the SuperNodes have")
    parser.add_argument(
        "--alive",
        type=Path,
        help="file to touch at every look for work, for a health check; while a message is at work too",
    )
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
    children = {warm.fork(serve, address, root, secret): address for address in addresses}
    while True:
        pid, _ = os.wait()
        address = children.pop(pid)
        time.sleep(_PAUSE)
        children[warm.fork(serve, address, root, secret)] = address


class _Token:
    """Shows the token of the task at hand, over a connection that outlives it."""

    def __init__(self) -> None:
        self.shown: RuntimeTokenHttpInterceptor | None = None

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Add it to a request; flwr's interface of an interceptor."""
        return self.shown.intercept(context, call_next) if self.shown else call_next(context)


def serve(address: str, root: bytes | None, secret: bytes | None, alive: Path | None = None) -> None:
    """Claim the tasks of one SuperNode and have each done, until the process that started this one is gone."""
    looking: list[Any] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if secret:
        acquiring = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        looking.append(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=acquiring))
    token = _Token()
    doing: list[Any] = [RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), token]
    node = RuntimeHttpClient.from_server_address(address, root is None, root, looking)
    tasks = node_tasks.Tasks(RuntimeHttpClient.from_server_address(address, root is None, root, doing), alive)
    request, parent = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]), os.getppid()
    while os.getppid() == parent:
        if alive:
            alive.touch()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # apps that are gone
                pass
        began = time.monotonic()
        try:
            claimed = node.AcquireTask(request).token
        except httpx.HTTPError:
            time.sleep(_PAUSE)
            continue
        if claimed:
            token.shown = RuntimeTokenHttpInterceptor(claimed)
            with contextlib.suppress(node_tasks.Abandoned, httpx.HTTPError):
                tasks.do()
        else:  # a SuperNode may have waited already whether there will be something
            time.sleep(max(_POLL - (time.monotonic() - began), 0.0))


if __name__ == "__main__":
    main()
