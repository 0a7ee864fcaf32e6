"""Self-pruning of ranks (HetLoRA, Cho et al., EMNLP 2024, §3.2): a device may give up its last ranks.

    L = task + λ·Σ ‖B[:, k:]‖·‖A[k:]‖        k = ⌊γ·r⌋

over all pairs, with Frobenius norms. If that sum is smaller after the round's training than before it, ranks from k on
are given up: they are sent as zeros, as zero padding counts them, and the reply says that the rank is k from now on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from client_app.objectives.base import ObjectiveContext
from client_app.objectives.cross_entropy import cross_entropy
from models.networks.build import layout
from protocol import WireError


class SelfPruning:
    """The task with a term for the last ranks; see the module.

    Settings: `strength` (λ), `share` (γ), `least` (the rank that a device keeps in any case).

    Raises:
        WireError: a setting is missing or out of range, adversarial inputs are asked for, or there are no pairs.
    """

    def __init__(self, setting: ObjectiveContext) -> None:
        try:
            self._strength, share = float(setting.settings["strength"]), float(setting.settings["share"])
            least = int(setting.settings["least"])
        except (KeyError, ValueError) as error:
            raise WireError(f"self-pruning settings {dict(setting.settings)}: {error!r}") from None
        if setting.attack is not None and setting.adversarial:
            raise WireError("self-pruning takes clean inputs only: adversarial = 0")
        parameters = dict(setting.module.named_parameters())
        pairs = [pair for pair in layout(setting.spec).pairs if pair.a in parameters and pair.b in parameters]
        if not (self._strength >= 0 and 0 < share < 1 and least >= 1 and pairs):
            raise WireError(f"self-pruning settings {dict(setting.settings)}: out of range, or there are no pairs")
        self._pairs = [(parameters[pair.b], parameters[pair.a]) for pair in pairs]
        self._task, self._rank = cross_entropy(setting), len(self._pairs[0][1])
        self._kept = max(least, int(share * self._rank))
        with torch.no_grad():
            self._before = self._tail()

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a batch, and the logits."""
        loss, logits = self._task(inputs, labels)
        return loss + self._strength * self._tail(), logits

    @torch.no_grad()
    def settle(self) -> Mapping[str, float]:
        """Give up the last ranks if they have become less; "rank" is what is left."""
        if self._kept >= self._rank or not self._tail() < self._before:
            return {"rank": float(self._rank)}
        for b, a in self._pairs:
            b[:, self._kept :] = 0.0
            a[self._kept :] = 0.0
        return {"rank": float(self._kept)}

    def _tail(self) -> Tensor:
        """Σ ‖B[:, k:]‖·‖A[k:]‖; of no ranks it is zero."""
        norm = torch.linalg.vector_norm
        return torch.stack([norm(b[:, self._kept :]) * norm(a[self._kept :]) for b, a in self._pairs]).sum()
