"""What edge/proxy.cfg passes: each call of Flower's Fleet API, letter by letter, and nothing else."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flotilla.flwr_compat.objects import PUSH_PATH
from flotilla.superlink.superlink import free_port

RULES = Path(__file__).resolve().parents[3] / "edge" / "proxy.cfg"
PASSED = {
    path for line in re.findall(r"^  acl fleet path -m str (.+)$", RULES.read_text(), re.M) for path in line.split()
}


def test_the_list_is_flowers_fleet_api() -> None:
    """A contract with flwr 1.41: a call that it gets or loses shows here."""
    from flwr.superlink.routers.fleet.router import router

    assert {route.path for route in router.routes} == PASSED  # type: ignore[attr-defined]
    assert {method for route in router.routes for method in route.methods} == {"POST"}  # type: ignore[attr-defined]
    assert PUSH_PATH in PASSED  # with which `flotilla profile` measures the line


class Upstream(BaseHTTPRequestHandler):
    """Stands for the SuperLink: answers everything and notes it."""

    protocol_version = "HTTP/1.1"
    seen: list[str] = []

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """The proxy ends first, and resets what it keeps open."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A proxy without TLS before something that answers everything."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed")
    with Server(("127.0.0.1", 0), Upstream) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        public = free_port()
        env = {"FLEET": f"127.0.0.1:{public}", "SUPERLINK": f"127.0.0.1:{upstream.server_port}", "TLS": "no"}
        proxy = subprocess.Popen([program, "-db", "-f", str(RULES)], env=env, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while answer(public, "GET", "/health") != 200 and time.monotonic() < deadline:
                time.sleep(0.05)
            yield public
        finally:
            proxy.kill()
            proxy.wait()
            upstream.shutdown()


def answer(port: int, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in ({"content-length": "0"} | (headers or {})).items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_every_fleet_call_passes(port: int) -> None:
    assert len(PASSED) == 12
    assert {path: answer(port, "POST", path) for path in PASSED} == dict.fromkeys(PASSED, 200)
    assert answer(port, "GET", "/openapi.json") == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages/../../control/start-run",
        "/v1/fleet/pull-messages%2f..%2f..%2fcontrol/start-run",
        "//v1/control/start-run",
        "/V1/fleet/pull-messages",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/",
        "/docs",
        "/health",
    ],
)
def test_nothing_else_passes(port: int, path: str) -> None:
    before = len(Upstream.seen)
    assert answer(port, "POST", path) == 403
    assert answer(port, "POST", f"http://superlink{path}") == 403
    assert len(Upstream.seen) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE"])
def test_a_fleet_call_is_a_post(port: int, method: str) -> None:
    assert answer(port, method, "/v1/fleet/pull-messages") in (400, 403)


def test_how_long_a_request_is_must_be_said_and_is_bounded(port: int) -> None:
    assert answer(port, "POST", PUSH_PATH, {"content-length": str(2**26)}) == 413
    assert answer(port, "POST", PUSH_PATH, {"transfer-encoding": "chunked"}) in (400, 411)
