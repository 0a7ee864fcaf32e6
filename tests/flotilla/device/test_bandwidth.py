"""The line to a server: rates against a server of known rates, and what is said where nothing can be measured."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flotilla.deploy.tls_keys import make_keys
from flotilla.device import bandwidth as line
from flotilla.device.bandwidth import Rate, measure_line
from flotilla.settings import SettingsError
from flotilla.superlink.superlink import environment, free_port, healthy

PAGE = b"x" * 20_000
PIECE = 4096


class Server:
    """Answers as a SuperLink does, at a rate.

    Args:
        up, down: bytes a second that it reads and writes of bodies.
        making: seconds that it takes to make a page.
        page: status of the page.
        most: bytes of a request beyond which it answers 413.
        unknown: what it answers to an unknown node.
    """

    def __init__(
        self,
        up: float = 1e9,
        down: float = 1e9,
        making: float = 0.0,
        page: int = 200,
        most: int = 2**30,
        unknown: int = 401,
    ) -> None:
        self.up, self.down, self.making, self.page, self.most, self.unknown = up, down, making, page, most, unknown
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as requests:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while head := requests.readline():
                    count = 0
                    while (field := requests.readline()) != b"\r\n":
                        if field.lower().startswith(b"content-length"):
                            count = int(field.split(b":")[1])
                    began, got = time.perf_counter(), 0
                    while got < count:
                        got += len(requests.read(min(PIECE, count - got)))
                        self.wait(began, got / self.up)
                    if head.startswith(b"POST"):
                        self.answer(connection, self.unknown if count <= self.most else 413, b"{}")
                    else:
                        time.sleep(self.making)
                        self.answer(connection, self.page, PAGE if self.page == 200 else b"")

    def answer(self, connection: socket.socket, status: int, body: bytes) -> None:
        connection.sendall(f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        began = time.perf_counter()
        for start in range(0, len(body), PIECE):
            connection.sendall(body[start : start + PIECE])
            self.wait(began, (start + PIECE) / self.down)

    @staticmethod
    def wait(began: float, seconds: float) -> None:
        time.sleep(max(0.0, began + seconds - time.perf_counter()))


@contextmanager
def serving(server: Server) -> Iterator[str]:
    threading.Thread(target=server.serve, daemon=True).start()
    yield server.address
    server.listening.close()


def test_rates_are_those_of_the_line() -> None:
    """2 and 1 MB/s. A busy machine makes it slower, never faster; what the sockets buffer may seem to."""
    with serving(Server(up=2e6, down=1e6)) as address:
        found = measure_line(address)
    assert found.up.bytes is not None
    assert found.down.bytes is not None
    assert 0.5 * 2e6 < found.up.bytes < 1.3 * 2e6
    assert 0.5 * 1e6 < found.down.bytes < 1.3 * 1e6
    assert not found.up.least
    assert not found.down.least
    assert 0 < found.round_trip < 1
    assert not found.tls


@pytest.mark.slow
def test_a_server_that_takes_its_time_is_not_the_line() -> None:
    """20 kB every 10 ms would look like 2 MB/s, but the line idles."""
    with serving(Server(making=0.01)) as address:
        found = measure_line(address)
    assert found.down.least
    assert found.down.bytes is not None
    assert found.down.bytes < 2e6
    assert found.down.text().startswith("at least ")


def test_a_round_trip_that_hides_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_MOST_UP", line._LEAST)
    server = Server()

    def answer(connection: socket.socket, status: int, body: bytes) -> None:
        time.sleep(0.05)
        Server.answer(server, connection, status, body)

    monkeypatch.setattr(server, "answer", answer)
    with serving(server) as address:
        found = measure_line(address)
    assert found.up.least
    assert found.up.bytes is not None
    assert found.up.bytes <= line._LEAST / 0.05


def test_a_proxy_may_hide_the_page_and_refuse_what_is_large() -> None:
    with serving(Server(page=404, most=300_000, up=2e6)) as address:
        found = measure_line(address)
    assert found.down == Rate(None, why="/openapi.json answers 404: a proxy hides it")
    assert found.down.text() == "- (/openapi.json answers 404: a proxy hides it)"
    assert found.down.seconds(1e6) == 0
    assert found.up.bytes is not None  # from what it did take
    with serving(Server(most=1000)) as address:
        refused = measure_line(address).up
    assert refused == Rate(None, why="/v1/fleet/push-object answers 413 to 65536 bytes")


def test_no_superlink_is_said_in_one_line() -> None:
    with serving(Server(unknown=404)) as address, pytest.raises(SettingsError, match=r"no SuperLink.*answers 404"):
        measure_line(address)
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = f"127.0.0.1:{server.getsockname()[1]}"
    for wrong in ("nowhere", "host:port", ":80", gone, "127.0.0.1:99999"):
        with pytest.raises(SettingsError, match="server = "):
            measure_line(wrong)


def stored(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("state.db*"))


@pytest.mark.slow
@pytest.mark.e2e
def test_a_real_superlink_keeps_nothing(tmp_path: Path) -> None:
    """Over TLS, with node authentication, as devices meet it; and what is said if only one side has TLS."""
    keys, port, log = tmp_path / "keys", free_port(), tmp_path / "log"
    make_keys(keys, 1)
    (tmp_path / "flwr").mkdir()
    command = [str(Path(sys.executable).with_name("flower-superlink")), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--isolation", "process", "--enable-supernode-auth", "--database", str(tmp_path / "state.db")]
    for option, name in (
        ("ca-certfile", "ca.crt"),
        ("certfile", "superlink/tls.crt"),
        ("keyfile", "superlink/tls.key"),
    ):
        command += [f"--ssl-{option}", str(keys / name)]
    address, root = f"127.0.0.1:{port}", keys / "ca.crt"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment(tmp_path), stdout=output, stderr=subprocess.STDOUT)
        try:
            while not healthy(address, root):
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            before = stored(tmp_path)
            found = measure_line(address, root)
            assert stored(tmp_path) - before < 2**16
            with pytest.raises(SettingsError, match=r"no answer over HTTP.*--root-certificates FILE"):
                measure_line(address)
            make_keys(tmp_path / "other", 1)
            with pytest.raises(SettingsError, match="does not vouch for its certificate"):
                measure_line(address, tmp_path / "other" / "ca.crt")
            with pytest.raises(SettingsError, match="no certificate can be read there"):
                measure_line(address, tmp_path / "nowhere")
        finally:
            process.terminate()
            process.wait()
    assert found.tls
    assert found.up.bytes is not None
    assert found.down.bytes is not None
    assert found.up.bytes > 1e5
    assert found.down.bytes > 1e5
    assert not re.search(r"Traceback|ERROR", log.read_text())
    with serving(Server()) as plain, pytest.raises(SettingsError, match="it does not speak TLS"):
        measure_line(plain, root)
