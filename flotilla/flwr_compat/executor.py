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
import base64
import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import torch  # so that no child has to
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullAppMessagesRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, pull_objects
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.utils import get_flwr_home
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output, run_clientapp

_POLL = float(os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.2"))  # seconds
_PAUSE = 1.0  # seconds before a SuperNode that does not answer is asked again
_PRELOADED = (torch, ClientApp)
# Seconds of rest, at first and at most, where a request is there before its arrays are; flwr's are 1 and 10.
_SOON = {"initial_backoff": 0.02, "backoff_cap": 0.1, "max_tries_per_object": None}
# Notes of a ClientApp: that it begins to hand over the reply of this name, and that it has done so.
_REPLIES, _REPLIED = b"replies ", b"replied"
_SEES = 2.0  # seconds within which a SuperNode has surely seen that there is a reply; it looks every 0.5 s
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
    for pull in (pull_objects, pull_and_inflate_object_from_tree):  # see server_app/flwr_patches/transport.py
        defaults = pull.__kwdefaults__ or {}
        if defaults.keys() >= _SOON.keys():
            defaults.update(_SOON)
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
    parent, at_work = os.getppid(), dict[int, tuple[str, int]]()  # process id → token, what it notes
    while os.getppid() == parent:
        if alive:
            alive.touch()
        for token, notes, number in _killed(at_work):
            fork(_answer, address, root, token, notes, number)
        try:
            task = client.AcquireTask(request)
        except httpx.HTTPError:
            time.sleep(_PAUSE)
            continue
        if task.token:
            ours, theirs = os.pipe()
            at_work[fork(_run, address, root, task.token, theirs)] = task.token, ours
            os.close(theirs)
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


def _run(address: str, root: bytes | None, token: str, notes: int) -> None:
    """Be a ClientApp's process; what it has been asked, and how far it has come in replying, goes into a pipe."""
    pull, push, end = RuntimeHttpClient.PullMessages, RuntimeHttpClient.PushMessages, RuntimeHttpClient.PushTaskOutput

    def pull_and_note(client: RuntimeHttpClient, request: Any) -> Any:
        answer = pull(client, request)
        for message in answer.messages_list:  # without contents: those are pulled afterwards
            os.write(notes, base64.b64encode(message.SerializeToString()) + b"\n")
        return answer

    def note_and_push(client: RuntimeHttpClient, request: Any) -> Any:
        os.write(notes, _REPLIES + request.messages_list[0].metadata.message_id.encode() + b"\n")
        return push(client, request)

    def note_and_end(client: RuntimeHttpClient, request: Any) -> Any:
        os.write(notes, _REPLIED + b"\n")
        return end(client, request)

    setattr(RuntimeHttpClient, "PullMessages", pull_and_note)  # noqa: B010 - theirs, and of this process only
    setattr(RuntimeHttpClient, "PushMessages", note_and_push)  # noqa: B010
    setattr(RuntimeHttpClient, "PushTaskOutput", note_and_end)  # noqa: B010
    run_clientapp(
        runtime_api_address=address, token=token, insecure=root is None, certificates=root, parent_pid=os.getppid()
    )


def _killed(at_work: dict[int, tuple[str, int]]) -> Iterator[tuple[str, bytes, int]]:
    """Collect the children that have ended; token, notes and signal of the ClientApps that were killed."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            token, notes = at_work.pop(pid, ("", -1))
            if not token:
                continue
            with open(notes, "rb") as pipe:
                noted = pipe.read()
            if os.WIFSIGNALED(status):
                # Perhaps while it unpacked the bundle: flwr would use what is there as it is.
                shutil.rmtree(get_flwr_home() / "apps", ignore_errors=True)
                yield token, noted, os.WTERMSIG(status)


def _answer(address: str, root: bytes | None, token: str, noted: bytes, number: int) -> None:
    """Reply with an error in place of a ClientApp that was killed, and end its task.

    A task that is not ended would expire later, and flwr would then call another message's ClientApp dead. Where the
    ClientApp died while it handed its reply over, the SuperNode has a reply already and must not get two; but it would
    wait for the rest of it for ever, and do nothing else. It is told to forget that reply, and then goes on; the
    SuperLink gives the reply up when the upload has stood still for three minutes.
    """
    interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")]
    interceptors.append(RuntimeTokenHttpInterceptor(token))
    client = RuntimeHttpClient.from_server_address(address, root is None, root, interceptors)
    reason = f"The ClientApp was killed by signal {number}."
    lines = noted.splitlines()
    replies = [line.removeprefix(_REPLIES).decode() for line in lines if line.startswith(_REPLIES)]
    requests = [line for line in lines if not line.startswith((_REPLIES, _REPLIED))]
    asked = [MessageProto.FromString(base64.b64decode(line)) for line in requests]
    if not replies:
        asked = asked or list(client.PullMessages(PullAppMessagesRequest()).messages_list)
    if not asked:  # killed at the very moment of pulling: flwr finds out after 60 s
        return
    message = message_from_proto(asked[0])
    run, node = message.metadata.run_id, message.metadata.dst_node_id

    def forget(name: str) -> None:
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=Node(node_id=node), run_id=run, message_object_id=name)
        )

    if not replies:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, run, node
        forget(message.metadata.message_id)
        reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)
        push_message(
            client, reply, Context(run_id=run, node_id=node, node_config={}, state=RecordDict(), run_config={})
        )
    elif _REPLIED not in lines:
        time.sleep(_SEES)  # what it has not seen yet it would look for in vain, and end
        forget(replies[0])
    push_task_output(client, None, SubStatus.FAILED, reason)


if __name__ == "__main__":
    main()
