"""FedSA-LoRA (Guo et al., ICLR 2025): both factors are trained; A is averaged, B stays on the device.

The paper finds that A learns what devices have in common and B what is a device's own. A device of rank r has the first
r rows of A, averaged over those who hold them, by examples; of its B it goes on with what it trained last, and begins
with zero. B is in no message and in no state of the server (`client_app.own_factors`). The head is averaged.

So the server has no network of any device. What it scores of a tier, exports and saves has B = 0: the base with the
trained head. The networks of the devices are scored where they are, with `fraction-evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from models.adapters.adapter import SHARED_A, Adapter
from models.errors import SettingError
from protocol import Scalar
from strategies.context import RoundContext
from strategies.methods.ranks.base import RankMethod
from strategies.settings import Settings


class FedSALoRA(RankMethod):
    """The first ranks of A, averaged over those who held them; B is the device's own.

    Equation: A[j] ← Σ nₖ·Aₖ[j] / Σ nₖ over the devices of rank above j; Bₖ stays on device k.

    Traps: the server has no device's network: what it scores has B = 0. Devices score their own with
    `fraction-evaluate`.
    """

    @classmethod
    def form(cls, adapter: Adapter, settings: Settings, options: Mapping[str, Scalar]) -> Adapter:
        """With A alone in the state."""
        del settings, options
        return replace(adapter, form=SHARED_A)

    def check(self, context: RoundContext) -> None:
        """Find what needs a network that nobody but a device has.

        Raises:
            SettingError: devices would be clustered.
        """
        kind = context.settings.clustering.clustering
        if kind != "none":
            allowed = f"none for {type(self).__name__}: a device would compare clusters without its B"
            raise SettingError("clustering", kind, allowed)

    def doubts(self, context: RoundContext) -> list[str]:
        """Where nobody scores what devices have."""
        if context.settings.fraction_evaluate:
            return []
        return ["tiers are scored without B, which devices keep; fraction-evaluate scores their own networks"]
