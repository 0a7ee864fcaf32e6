"""Which base this device has: what a network is held on and is never sent.

It is read from the device's own file (`base` in its node config: a .safetensors file, or a folder as
`models.networks.bases` says), else from what the run starts from, if this machine has that file, as in a simulation;
where the run starts from nothing it is drawn from the run's seed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flwr.app import Context

from models import base_store
from models.networks.bases import base_in, drawn_base
from models.networks.spec import NetworkSpec
from protocol import WireError

KEY = "base"
NONE = "none"  # what a device says that has none
_SHOWN = 12  # characters of a digest in a message
_read: dict[tuple[str, NetworkSpec, int], str] = {}  # file, network and seed → digest


def digest_of_base(network: NetworkSpec, seed: int, context: Context) -> str:
    """Digest of this device's base of a network, which the process holds from now on; `NONE` where it has none."""
    if base_store.holds(network.base):
        return network.base
    place = str(context.node_config.get(KEY, "") or context.run_config.get("start", ""))
    unnamed = replace(network, base="")
    key = place, unnamed, seed
    if key not in _read or not base_store.holds(_read[key]):
        try:
            found = base_in(Path(place).expanduser(), unnamed) if place else drawn_base(unnamed, seed)
        except ValueError:
            return NONE
        _read[key] = base_store.hold(found)
    return _read[key]


def require_base(network: NetworkSpec, seed: int, context: Context) -> None:
    """See that this process holds the base that a request's network is built on.

    Raises:
        WireError: it has another one; names both.
    """
    if not network.base:
        return
    found = digest_of_base(network, seed, context)
    if found != network.base:
        raise WireError(f"this device's base is {found[:_SHOWN]}, the run's is {network.base[:_SHOWN]}")
