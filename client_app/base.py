"""Which base this device has: what a network is held on and is never sent.

It is read from the device's own file (`base` in its node config: a .safetensors file, or a folder as
`models.networks.bases` says), else from what the run starts from, if this machine has that file, as in a simulation;
where the run starts from nothing it is drawn from the run's seed. Whoever asks says what is drawn: of a network that is
more than half of this machine's memory no base is looked for.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from flwr.app import Context

from models import base_store
from models.networks.bases import BaseFile, base_file, drawn_base
from models.networks.build import layout, without_adapter
from models.networks.spec import NetworkSpec
from protocol import WireError

KEY = "base"
NONE = "none"  # what a device says that has none
_SHOWN = 12  # characters of a digest in a message
_KEPT = 8  # digests; of the bases themselves a process holds fewer
_read: OrderedDict[tuple[object, ...], str] = OrderedDict()  # file and its age and size, network, seed → digest


def digest_of_base(network: NetworkSpec, seed: int, context: Context) -> str:
    """Digest of this device's base of a network, which the process holds from now on; `NONE` where it has none.

    Raises:
        WireError: the network is none that has a base, or its base is too large for this machine.
    """
    _check_bytes(network)
    if base_store.holds(network.base):
        return network.base
    place = str(context.node_config.get(KEY, "") or context.run_config.get("start", ""))
    unnamed = replace(network, base="")
    key = place, _stamp(place), unnamed, seed
    if key not in _read or not base_store.holds(_read[key]):
        try:
            found = BaseFile(Path(place).expanduser(), unnamed) if place else drawn_base(unnamed, seed)
            _read[key] = base_store.hold(found)
        except ValueError:
            return NONE
        while len(_read) > _KEPT:
            _read.popitem(last=False)
    _read.move_to_end(key)
    return _read[key]


def _stamp(place: str) -> tuple[int, int] | None:
    """When a file was written last, and its bytes; None where there is none."""
    try:
        found = base_file(Path(place).expanduser()).stat() if place else None
    except (OSError, ValueError):
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size)


def _check_bytes(network: NetworkSpec) -> None:
    if network.adapter is None:
        raise WireError("the request's network has no adapter, and so no base")
    try:
        needed = 4 * layout(without_adapter(network)).parameters  # drawn is all of it
    except (ValueError, KeyError) as error:
        raise WireError(f"this client: {error}") from None
    if needed > (most := _most_bytes()):
        raise WireError(f"a base of {needed} bytes is more than half of this machine's memory, {most}")


@cache
def _most_bytes() -> int:
    from client_app import hardware  # what it needs is loaded where it is needed

    return hardware.memory(torch.device("cpu"))[0] // 2


def require_base(network: NetworkSpec, seed: int, context: Context) -> None:
    """See that this process holds the base that a request's network with an adapter is built on.

    Raises:
        WireError: it has another one, in which case both are named; or the request names none, or one that is too
            large.
    """
    if not network.base:
        raise WireError("the request's network has an adapter and no base")
    found = digest_of_base(network, seed, context)
    if found != network.base:
        raise WireError(f"this device's base is {found[:_SHOWN]}, the run's is {network.base[:_SHOWN]}")
