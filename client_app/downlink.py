"""The state as a difference against the one that this device got last (see `strategies/transport/downlink.py`)."""

from __future__ import annotations

from math import prod

from flwr.app import Array

from client_app.client_state import ClientState
from models.networks.build import layout
from models.networks.spec import NetworkSpec
from protocol import CompressedState, WireError, decode, encode
from protocol.codecs import checksum, codec_from

NAME = "received"


def whole_state(compressed: CompressedState, network: NetworkSpec, array: Array, memory: ClientState) -> Array:
    """The whole state of a request, which the device keeps for the next one.

    Raises:
        WireError: it adds to a state that this device does not have, or no longer.
    """
    sizes = [prod(shape) for shape in layout(network).shapes.values()]
    if not compressed.base:
        memory.write(NAME, decode(array, sum(sizes)))
        return array
    held = memory.read(NAME)
    if held is None or held.numel() != sum(sizes) or checksum(held) != compressed.base:
        raise WireError("this device does not have the state that the request adds to: it needs a whole one")
    state = held + codec_from(compressed.codec).contracted(array, sizes)
    memory.write(NAME, state)
    return encode(state)
