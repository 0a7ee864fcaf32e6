"""The line to a SuperLink: how long a request takes, and how many bytes a second go up and down.

No credentials are needed, and the SuperLink keeps nothing. Up: the request with which a node pushes an object, filled
with random bytes; flwr 1.41 reads and parses all of it before it says that it does not know the node. Down: the page
that describes its interface (about 34 kB), asked for many times at once. Both on one connection each, in amounts that
double until one takes long enough, so that the connection has got up its speed by then.

    rate = bytes / (seconds - seconds of an empty request)

Where the line is so fast that most of these seconds is waiting, what is said is "at least". What goes up waits for the
round trip. What comes down waits for the SuperLink, which makes one page after the other: then a page comes at a
stroke, and there are pauses between the pages; a line that is the limit knows no pauses.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException, parse_headers
from pathlib import Path
from statistics import median
from time import perf_counter

from flotilla.flwr_compat.objects import PUSH_PATH, push_request
from flotilla.settings import SettingsError

_PAGE = "/openapi.json"
_UNKNOWN_NODE = 401  # what a SuperLink says once it has read all of a request without credentials
_TURNS = 5
_LONG = 0.5  # seconds that a transfer is to take at least
_PATIENCE = 30.0  # seconds for one transfer; amounts double, so a line that needs it carries under 20 kbit/s
_LEAST, _MOST_UP, _MOST_DOWN = 2**16, 2**25, 2**22  # bytes; each page is a line in the SuperLink's log


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one direction is.

    Attributes:
        bytes: a second; None if it could not be measured.
        least: whether it may well be more.
        why: it could not be measured, or may be more; "" otherwise.
    """

    bytes: float | None
    least: bool = False
    why: str = ""

    def text(self) -> str:
        """As a person reads it."""
        if self.bytes is None:
            return f"- ({self.why})"
        return f"{'at least ' if self.least else ''}{8e-6 * self.bytes:.3g} Mbit/s"

    def seconds(self, count: float) -> float:
        """What so many bytes take; 0 if nothing is known."""
        return count / self.bytes if self.bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The line to a server.

    Attributes:
        server: "HOST:PORT".
        tls: whether it was measured over TLS.
        connect: seconds until a connection stands, with TLS where there is one.
        round_trip: median seconds of an empty request, the server's own work included.
        up, down: rates.
    """

    server: str
    tls: bool
    connect: float
    round_trip: float
    up: Rate
    down: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """The answers to requests that were sent at once.

    Attributes:
        seconds: until all were there.
        coming: of them, between an answer's first byte and its last.
        status: of the last one.
        length: of its content.
    """

    seconds: float
    coming: float
    status: int
    length: int


class _Lost(Exception):
    """No more answers on this connection; says why."""


class _Connection:
    """A connection on which requests can be sent ahead, which Python's own client does not do."""

    def __init__(self, server: str, root: Path | None) -> None:
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(f"server = {server!r}: allowed is HOST:PORT, such as 192.168.0.2:8000")
        self._server, host, began = server, host.strip("[]"), perf_counter()
        try:
            self._socket = socket.create_connection((host, int(port)), timeout=_PATIENCE)
        except (OSError, OverflowError) as error:
            raise SettingsError(f"server = {server!r}: nobody answers there ({error})") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if root is not None:
            self._socket = _secured(self._socket, server, host, root)
        self.seconds = perf_counter() - began
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def ask(self, request: bytes, count: int = 1) -> _Answers:
        """Send a request so many times at once.

        Raises:
            _Lost: not all were answered.
        """
        began, coming, status, length = perf_counter(), 0.0, 0, 0
        try:
            self._socket.sendall(request * count)
            for _ in range(count):
                first, status, length = self._answer()
                coming += perf_counter() - first
        except TimeoutError:
            raise _Lost(f"no answer within {_PATIENCE:.0f} s") from None
        except (OSError, HTTPException, ValueError) as error:
            raise _Lost(" ".join(str(error).split()) or type(error).__name__) from None
        return _Answers(seconds=perf_counter() - began, coming=coming, status=status, length=length)

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: {self._server}\r\n\r\n".encode()

    def push(self, count: int) -> bytes:
        """The request to push an object of so many random bytes, which nothing on the way can make fewer of."""
        body = push_request(os.urandom(count))
        head = f"POST {PUSH_PATH} HTTP/1.1\r\nHost: {self._server}\r\nContent-Type: application/protobuf\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _answer(self) -> tuple[float, int, int]:
        """When its first line was there, its status, and the length of its content."""
        words, first = self._answers.readline(1000).split(), perf_counter()
        if not words:
            raise ConnectionResetError("the connection was closed")
        if not words[0].startswith(b"HTTP/1"):
            raise ValueError("that is no HTTP")
        length = int(parse_headers(self._answers).get("content-length", -1))
        left = length
        while left > 0:
            got = len(self._answers.read(min(left, 2**16)))
            if not got:
                raise ConnectionResetError("the connection was closed")
            left -= got
        return first, int(words[1]), length


def _secured(plain: socket.socket, server: str, host: str, root: Path) -> socket.socket:
    try:
        trust = ssl.create_default_context(cafile=root)
    except OSError as error:  # also ssl.SSLError
        plain.close()
        raise SettingsError(f"root-certificates = {str(root)!r}: no certificate can be read there ({error})") from None
    try:
        return trust.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        reason = f"{root} does not vouch for its certificate ({error.verify_message})"
    except OSError as error:
        reason = f"it does not speak TLS; without it leave --root-certificates out ({error})"
    plain.close()
    raise SettingsError(f"server = {server!r}: {reason}") from None


def measure_line(server: str, root: Path | None = None) -> Line:
    """Measure the line to a SuperLink, in a few seconds.

    Args:
        server: "HOST:PORT".
        root: file of certificates that vouch for it; None is a SuperLink without TLS.

    Raises:
        SettingsError: it is no "HOST:PORT", nobody answers there, TLS is on one side only, or it is no SuperLink.
    """
    with closing(_Connection(server, root)) as connection:
        try:
            turns = [connection.ask(connection.push(0)) for _ in range(_TURNS + 1)]
        except _Lost as lost:
            hint = "" if root else "; if it has TLS, say which certificate vouches for it: --root-certificates FILE"
            raise SettingsError(
                f"server = {server!r}: no answer over {'TLS' if root else 'HTTP'} ({lost}){hint}"
            ) from None
        if turns[-1].status != _UNKNOWN_NODE:
            raise SettingsError(f"server = {server!r}: it is no SuperLink ({PUSH_PATH} answers {turns[-1].status})")
        empty = median(turn.seconds for turn in turns[1:])  # the first finds the server's own caches empty
        up = _tried(lambda: _up(connection, empty))
    with closing(_Connection(server, root)) as other:  # what has gone wrong with the first is of no concern
        down = _tried(lambda: _down(other, empty))
    return Line(server=server, tls=root is not None, connect=connection.seconds, round_trip=empty, up=up, down=down)


def _tried(measure: Callable[[], Rate]) -> Rate:
    try:
        return measure()
    except _Lost as lost:
        return Rate(None, why=str(lost))


def _up(connection: _Connection, empty: float) -> Rate:
    count, seconds = 0, 0.0
    for size in _doubling(_LEAST, _MOST_UP):
        request = connection.push(size)
        answer = connection.ask(request)
        if answer.status != _UNKNOWN_NODE:  # such as a proxy's limit on the size of a request
            if not count:
                raise _Lost(f"{PUSH_PATH} answers {answer.status} to {size} bytes")
            break
        count, seconds = size, answer.seconds
        if seconds >= _LONG:
            break
    return _rate(count, seconds, empty, seconds - empty, "bound by the round trip")


def _down(connection: _Connection, empty: float) -> Rate:
    page = connection.get(_PAGE)
    answer = connection.ask(page)
    if answer.status != 200 or answer.length < 1000:
        raise _Lost(f"{_PAGE} answers {answer.status}: a proxy hides it")
    for size in _doubling(_LEAST, _MOST_DOWN):
        count = -(-size // answer.length)
        answer = connection.ask(page, count)
        if answer.status != 200:
            raise _Lost(f"{_PAGE} answers {answer.status}")
        if answer.seconds >= _LONG:
            break
    why = "bound by the SuperLink, which makes one answer at a time"
    return _rate(count * answer.length, answer.seconds, empty, answer.coming, why)


def _rate(count: int, seconds: float, empty: float, moving: float, why: str) -> Rate:
    """The rate; a lower bound if bytes were on the move in less than half of the seconds."""
    if 2 * moving < seconds:
        return Rate(count / seconds, True, why)
    return Rate(count / max(seconds - empty, moving))


def _doubling(least: int, most: int) -> Iterable[int]:
    while least <= most:
        yield least
        least *= 2
