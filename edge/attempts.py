"""What code of a run could reach on a device, tried: run as the ClientApp's unit with this in place of the executor.

    attempts.py HOST:PORT          the SuperLink that the SuperNode talks to; edge/try.sh makes the unit

Prints a line for every attempt, and fails if one comes out otherwise than it must. Nothing is changed on the device.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path


def connect(host: str, port: int) -> str:
    """Open a connection."""
    socket.create_connection((host, port), timeout=10).close()
    return "reached"


def ask_a_resolver() -> str:
    """Send a datagram to another host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"?", ("192.0.2.1", 53))
    return "sent"


def other_processes() -> str:
    """Look at the processes of other users."""
    others = [pid for pid in os.listdir("/proc") if pid.isdigit() and os.stat(f"/proc/{pid}").st_uid != os.getuid()]
    if not others:
        raise PermissionError("none is to be seen")
    return f"{len(others)} are to be seen"


def write(path: str) -> str:
    """Write a file, and take it away again."""
    Path(path).write_text("x")
    Path(path).unlink()
    return "written"


def become_root() -> str:
    """Take root's user id."""
    os.setuid(0)
    return "root"


def limits() -> str:
    """Look whether memory and processes are limited, in control groups of either version."""
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    found = {}
    for controller, new, old in (("memory", "memory.max", "memory.limit_in_bytes"), ("pids", "pids.max", "pids.max")):
        place = f"{controller}{groups[controller]}/{old}" if controller in groups else f"{groups['']}/{new}"
        found[controller] = Path(f"/sys/fs/cgroup/{place}").read_text().strip()
    if any(value == "max" or int(value) > 1 << 60 for value in found.values()):
        raise PermissionError(f"no limit: {found}")
    return ", ".join(f"{name} {value}" for name, value in found.items())


def no_rights() -> str:
    """Look whether there is a capability, a way to new ones, or an unfiltered system call."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    if status["NoNewPrivs"] != "1" or int(status["CapBnd"], 16) or status["Seccomp"] != "2":
        raise PermissionError(str({key: status[key] for key in ("NoNewPrivs", "CapBnd", "Seccomp")}))
    return "no capability, no new privileges, system calls filtered"


def attempts(superlink: str) -> list[tuple[str, bool, Callable[[], object]]]:
    """What is tried, and whether it must succeed."""
    host, _, port = superlink.rpartition(":")
    own = Path(os.environ["STATE_DIRECTORY"])
    return [
        ("read the node's private key", False, Path("/etc/flotilla/own/auth").read_bytes),
        ("list the device's keys", False, lambda: os.listdir("/etc/flotilla/own")),
        ("list the SuperNode's folder", False, lambda: os.listdir("/var/lib/flotilla")),
        ("see the processes of others", False, other_processes),
        ("reach the SuperLink", False, lambda: connect(host, int(port))),
        ("reach another host", False, lambda: connect("192.0.2.1", 443)),
        ("send a datagram to a resolver", False, ask_a_resolver),
        ("reach the host's own resolver", False, lambda: connect("127.0.0.53", 53)),
        ("open a socket of IPv6", False, lambda: socket.socket(socket.AF_INET6)),
        ("write to the program", False, lambda: write("/opt/flotilla/x")),
        ("write to /etc", False, lambda: write("/etc/x")),
        ("become root", False, become_root),
        ("have no rights", True, no_rights),
        ("have limits", True, limits),
        ("read its own secret", True, Path("/etc/flotilla/secret").read_bytes),
        ("write to its own folder", True, lambda: write(str(own / "x"))),
        ("reach the SuperNode", True, lambda: connect("127.0.0.1", 9094)),
    ]


def main() -> int:
    """Try everything; the number of attempts that came out otherwise than they must."""
    wrong = 0
    for what, must, attempt in attempts(sys.argv[1]):
        try:
            said, came = attempt(), True
        except OSError as error:
            said, came = error.strerror or str(error), False
        shown = f": {said}" if isinstance(said, str) else ""
        wrong += came != must
        print(f"{'as it must' if came == must else 'WRONG':10}  {what:40}{'yes' if came else 'no'}{shown}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
