"""Classes of devices, as a TOML file tells them, and which node is of which.

::

    [[device]]
    name = "phone"
    share = 0.5              # of the nodes; or count = 50
    gmacs = 4.0              # 10^9 multiply-accumulates of training a second
    step-ms = 2.0            # of every training step, beside
    memory-mb = 512.0        # for training (10^6 bytes)
    down-mbit = 20.0         # 10^6 bits a second
    up-mbit = 5.0
    latency-ms = 50.0        # each way
    spread = 0.2             # how unlike the devices of the class are in speed: a factor exp(spread · N(0, 1))
    jitter = 0.1             # the same from round to round
    available = 0.9          # chance to be there in a round
    failure = 0.02           # chance that a chosen device is never heard of again that round
    busy = 0.1               # chance of a busy spell,
    slowdown = 3.0           #   in which it computes so many times slower,
    spell = 10               #   of so many rounds

What is left out has the defaults of `Device`: a class of which only `gmacs` is told is always there, has memory without
end and a line that takes no time.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from hashlib import blake2b
from math import inf, isnan
from pathlib import Path
from typing import Any

from models.errors import SettingError

_FOLDER = Path(__file__).parent
BUNDLED = tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))
_CHANCES = ("available", "failure", "busy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A class of devices; units are in the names, see above.

    Attributes:
        name: what it is called.
        gmacs: of training: a forward pass of m multiply-accumulates counts 3 m, for its backward pass too.
        share, count: how many of the nodes; count 0 leaves it to the share.
    """

    name: str
    gmacs: float
    share: float = 1.0
    count: int = 0
    step_ms: float = 0.0
    memory_mb: float = inf
    down_mbit: float = inf
    up_mbit: float = inf
    latency_ms: float = 0.0
    spread: float = 0.0
    jitter: float = 0.0
    available: float = 1.0
    failure: float = 0.0
    busy: float = 0.0
    slowdown: float = 1.0
    spell: int = 10


@dataclass(frozen=True, slots=True)
class VirtualFleet:
    """A checked fleet.

    Attributes:
        devices: classes in the order of the file.
        digest: of the file's text: a resumed run has to have the same.
    """

    devices: tuple[Device, ...]
    digest: str

    def shares(self, nodes: int) -> list[Fraction]:
        """Share of each class among so many nodes, summing to 1.

        Raises:
            SettingError: counts that are more than there are nodes, or that leave nobody for a share.
        """
        counted = sum(device.count for device in self.devices)
        rest = [Fraction(0) if device.count else Fraction(str(device.share)) for device in self.devices]
        if counted > nodes or (counted < nodes and not sum(rest)):
            raise SettingError(
                "simulated-devices", f"{counted} counted devices", f"num-clients ({nodes}), or less and a share"
            )
        left = Fraction(nodes - counted, nodes)
        return [
            Fraction(device.count, nodes) if device.count else left * share / sum(rest) if left else Fraction(0)
            for device, share in zip(self.devices, rest, strict=True)
        ]


def read_fleet(name: str) -> VirtualFleet | None:
    """Read a fleet: a bundled one by its name, or a file (".toml"); None for "".

    Raises:
        SettingError: there is none, or what it says cannot be.
    """
    if not name:
        return None
    file = Path(name).expanduser() if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in BUNDLED:
        raise SettingError("simulated-devices", name, f'"", {", ".join(BUNDLED)}, or a file that ends with .toml')
    try:
        text = file.read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError("simulated-devices", name, f"a TOML file that can be read ({error})") from None
    entries = found.get("device")
    if set(found) != {"device"} or not isinstance(entries, list) or not entries:
        raise SettingError("simulated-devices", name, "a TOML file of [[device]] tables, and of nothing else")
    devices = tuple(_device(name, entry) for entry in entries)
    if len({device.name for device in devices}) < len(devices):
        raise SettingError("simulated-devices", name, "every name of a device once")
    return VirtualFleet(devices, blake2b(text.encode(), digest_size=8).hexdigest())


def _device(name: str, entry: Mapping[str, Any]) -> Device:
    kinds = {field.name.replace("_", "-"): str(field.type) for field in fields(Device)}
    if unknown := set(entry) - set(kinds):
        raise SettingError("simulated-devices", f"{name}: {sorted(unknown)[0]}", kinds)
    if missing := {"name", "gmacs"} - set(entry):
        raise SettingError("simulated-devices", f"{name}: {entry}", f"a device with {' and '.join(sorted(missing))}")
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if kinds[key] == "float" and type(value) is int:
            value = float(value)
        if type(value).__name__ != kinds[key]:
            raise SettingError("simulated-devices", f"{name}: {key} = {value!r}", f"a {kinds[key]}")
        if isinstance(value, float | int):
            least, most = (0, 1) if key in _CHANCES else (1, inf) if key in ("slowdown", "spell") else (0, inf)
            if not least <= value <= most or isnan(value):
                raise SettingError("simulated-devices", f"{name}: {key} = {value!r}", f"{least} to {most}")
        values[key.replace("-", "_")] = value
    device = Device(**values)
    for key in ("gmacs", "down_mbit", "up_mbit"):
        if not getattr(device, key):
            raise SettingError("simulated-devices", f"{name}: {key.replace('_', '-')} = 0", "more than 0")
    return device
