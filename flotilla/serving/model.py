"""One tier's network, ready to be used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import InputFacts, Preprocess
from models.algebra.plans import Plan
from models.losses import CLASSIFICATION, MULTI_LABEL
from models.networks.build import build_part
from models.networks.spec import NetworkSpec
from models.norms.dual_norm import dual_norms
from models.statistics import needs_statistics, set_statistics


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a ready network is.

    Attributes:
        tier: its name; "global" is the network that the run trained altogether.
        network: spec of the whole network.
        plan: which part of it this is.
        noise_share: share of the noise norms, where norms are dual.
        inputs: what inputs and labels are.
        round: the round after which it is so.
        accuracy: on the test set, as the run reported it; None where it reported none, as of clusters beside the main.
        moments: of static batch norm (float64); None where there is none.
    """

    tier: str
    network: NetworkSpec
    plan: Plan
    noise_share: float
    inputs: InputFacts
    round: int
    accuracy: float | None
    moments: Tensor | None = None


class TierModel(nn.Module):
    """x (N, *input_shape) → logits (N, classes) of one tier's network, of exactly its size, in evaluation mode.

    Args:
        card: what it is.
        state: the part's tensors by the part's names; copied.

    Attributes:
        card: see above.
        network: the network itself; its state is the given one.
        classes: names of the classes, in the order of the logits.
        preprocess: makes inputs of pictures, texts and arrays, see `data.Preprocess`.

    Raises:
        ValueError, RuntimeError: the state or the moments are not this network's.
    """

    def __init__(self, card: ModelCard, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.card = card
        self.classes, self.preprocess = card.inputs.classes, Preprocess(card.inputs)
        self.network = build_part(card.network, card.plan)
        self.network.load_state_dict(state)
        for norm in dual_norms(self.network):
            norm.share = card.noise_share
        if needs_statistics(self.network):
            if card.moments is None:
                raise ValueError("it has static batch norm and no statistics")
            set_statistics(self.network, card.moments)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits: of the deepest exit, or the mean of several nets; of a regression numbers, standardised."""
        return self.network(x)  # type: ignore[no-any-return]

    def answers(self, outputs: Tensor) -> Tensor:
        """What outputs (N, classes) say, float64: probabilities, or the numbers of a regression in the data's units."""
        task, exact = self.card.network.task, outputs.double()
        if task == CLASSIFICATION:
            return torch.softmax(exact, 1)
        if task == MULTI_LABEL:
            return torch.sigmoid(exact)
        columns = self.preprocess.columns
        if columns is None or not columns.std:
            return exact
        return exact * torch.tensor(columns.std).double() + torch.tensor(columns.mean).double()

    def extra_repr(self) -> str:
        """Tier and accuracy."""
        return f"tier={self.card.tier!r}, accuracy={self.card.accuracy}"
