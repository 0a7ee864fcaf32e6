"""The state on its way down, as a compressed difference against the one that clients hold already.

With `codec-down` the server keeps, beside its own state w, the one that clients have:

    v_r = v_(r-1) + C(w_r - v_(r-1)),        v_1 = w_1

which is EF21's rule for the broadcast (EF21-BC, Fatkhullin et al. 2021, §2.6): what a round leaves out is part of the
next difference, so errors do not add up. That wants a C whose error is shorter than what it was given, so the quantiser
is divided by 1 + ω here (`Codec.contracted`); with fewer levels or larger blocks v follows w more slowly. A client
whose reply of the round before counted holds v_(r-1) and gets the encoded difference, one frame for all of them; the
others get v_r whole, as float32. Everybody trains from v_r, so the replies are differences to it; they are added to w.

It pays where most nodes take part every round: who missed one gets everything. What is asked beside training
(statistics, probes, evaluation) still brings the whole w.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.submodel import split
from models.randomness import generator
from protocol import STATE, encode
from protocol.codecs import NOTHING, CodecSettings, checksum, codec_of
from strategies.exchange.stateful import Saved, Stateful


class Downlink(Stateful):
    """What clients are sent to train from.

    Args:
        settings: of the codec; float32 is off.
        layout: declaration of the network.
        seed: of the run.

    Attributes:
        on: whether differences are sent at all.
        text: the codec's settings for the request; "" is off.
        tensors: the clients' state of this round by name; only if it is on.
    """

    def __init__(self, settings: CodecSettings, layout: Layout, seed: int) -> None:
        self.on = self.begins = settings.name != "float32"
        self.text = settings.to_text() if self.on else ""
        self._codec, self._seed = codec_of(settings), seed
        shapes = layout.shapes
        self._sizes = [prod(shape) for shape in shapes.values()]
        self._flat = torch.zeros(layout.parameters if self.on else 0)
        self.tensors = split(self._flat, shapes) if self.on else {}
        self._round = self._before = 0  # of the clients' state, and of the one that the frame adds to
        self._base = 0
        self._frame: ArrayRecord | None = None
        self._whole = ArrayRecord()

    def begin(self, round_number: int, state: Tensor) -> None:
        """Bring the clients' state up to date for a round; the second time in a round does nothing."""
        if not self.on or round_number == self._round:
            return
        self._before, self._base, self._frame = self._round, checksum(self._flat), None
        try:
            if not self._before:
                raise ValueError("nobody has anything yet")
            draws = generator(self._seed, round_number, "server", "codec")
            array = self._codec.encode(state - self._flat, self._sizes, draws, NOTHING)
            self._flat.add_(self._codec.contracted(array, self._sizes))
            self._frame = ArrayRecord({STATE: array})
        except ValueError:  # also a difference beyond float16: then everybody gets everything
            self._flat.copy_(state)
        self._whole, self._round = ArrayRecord({STATE: encode(self._flat.clone())}), round_number

    def arrays(self, counted: int) -> tuple[ArrayRecord, int]:
        """What a node is sent, and what that adds to (0: nothing, it is the whole).

        Args:
            counted: round of its last reply that counted.
        """
        if self._frame is None or counted != self._before:
            return self._whole, 0
        return self._frame, self._base

    def checkpoint(self) -> Saved:
        """The state that nodes have, and of which round it is."""
        return ({"state": self._flat.clone()} if self.on else {}), {"round": self._round}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        if self.on:
            self._flat.copy_(tensors["state"])
            self._round = int(values["round"])
