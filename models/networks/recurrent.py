"""Gated recurrent units (Cho et al., EMNLP 2014) for texts and signals: embedding, layers, last state, classifier.

A layer's three gates stand one below the other in two matrices, from its inputs and from its states. Each gate has one
row for every unit of the layer, so a unit that is kept keeps its row in all three of them: `Along(layer, outer=3)`. A
unit whose weights are all zero stays at zero, so a part computes what the whole would with the rest at zero.

One stage per layer; the embedding belongs to none, every depth holds it. Normalisation stands where the final state
leaves for a classifier, not between time steps. Widths: the embedding's, then every layer's.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.algebra.axes import Along, Axis, Kind
from models.algebra.declarations import declare
from models.algebra.groups import FEATURES
from models.errors import SettingError
from models.networks.builder import IMAGE, Builder, ends
from models.networks.network import Network
from models.networks.registry import NETWORKS
from models.networks.spec import PADDING, NetworkSpec
from models.networks.staged import Staged

_EMBEDDING, _VOCABULARY = "embedding", "vocabulary"
Features = tuple[Tensor, Tensor]  # (N, T, C) of every step, and (N,) which step is an input's last


class Tokens(nn.Module):
    """Tokens (N, T) → (N, T, E) and the last step that is no padding.

    Vectors are multiplied by the square root of their length at full width, as in Vaswani et al. (NeurIPS 2017, §3.4):
    embeddings are drawn small (σ = 0.02), and the gates would stay near 1/2 for many rounds.
    """

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        self.table = declare(builder.embedding(_VOCABULARY, _EMBEDDING), stage=0)
        self.factor = builder.axes[_EMBEDDING].size ** 0.5

    def forward(self, x_NT: Tensor) -> Features:
        """Look the tokens up."""
        steps = torch.arange(x_NT.shape[1], device=x_NT.device)
        return self.table(x_NT) * self.factor, (steps * (x_NT != PADDING)).amax(1)


class Signals(nn.Module):
    """Signals (N, C, T) → (N, T, E) and the last step."""

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        self.linear = declare(builder.linear(IMAGE, _EMBEDDING), stage=0)

    def forward(self, x_NCT: Tensor) -> Features:
        """Map every step's channels."""
        last = torch.full(x_NCT.shape[:1], x_NCT.shape[2] - 1, device=x_NCT.device)
        return self.linear(x_NCT.transpose(1, 2)), last


class Layer(nn.Module):
    """(N, T, C) → (N, T, H); the state begins at zero. PyTorch's own kernel, on tensors that are declared."""

    def __init__(self, builder: Builder, inputs: str, axis: str) -> None:
        super().__init__()
        self.inputs = builder.linear(inputs, Along(axis, outer=3))
        self.states = builder.linear(axis, Along(axis, outer=3))

    def forward(self, features: Features) -> Features:
        """Run over time."""
        x_NTC, last_N = features
        if x_NTC.is_meta:  # only shapes and the number of operations are asked for: the same in one step as in T
            states_NTH = x_NTC.new_empty(*x_NTC.shape[:2], self.states.in_features)
            gates_NTG = self.inputs(x_NTC) + self.states(states_NTH)
            return gates_NTG[..., : self.states.in_features], last_N
        weights = [self.inputs.weight, self.states.weight, self.inputs.bias, self.states.bias]
        start = x_NTC.new_zeros(1, x_NTC.shape[0], self.states.in_features)
        states_NTH, _ = torch.gru(x_NTC, start, weights, True, 1, 0.0, self.training, False, True)
        return states_NTH, last_N


class Last(nn.Module):
    """(N, T, H) → (N, H): each input's state after its last step."""

    def forward(self, features: Features) -> Tensor:
        """Pick."""
        states_NTH, last_N = features
        return states_NTH[torch.arange(last_N.shape[0], device=last_N.device), last_N]


def _layers(spec: NetworkSpec) -> list[str]:
    return [f"layer{i}" for i in range(1, len(spec.widths))]


def _axes(spec: NetworkSpec) -> dict[str, Axis]:
    names = [_EMBEDDING, *_layers(spec)]
    vocabulary = {_VOCABULARY: Axis(_VOCABULARY, spec.vocabulary, Kind.TOKEN)} if spec.vocabulary else {}
    widths = zip(names, spec.widths, strict=True)
    return ends(spec) | vocabulary | {name: Axis(name, width, group=FEATURES) for name, width in widths}


class GRU(Staged):
    """Tokens (N, T) or signals (N, C, T) → logits (N, classes)."""

    def __init__(self, builder: Builder) -> None:
        names = _layers(builder.spec)
        if not names:
            raise SettingError("widths", builder.spec.widths, "2 or more: the embedding's, then every layer's")

        def stem() -> nn.Module:
            return Tokens(builder) if builder.spec.vocabulary else Signals(builder)

        def ready(axis: str) -> nn.Module:
            return nn.Sequential(Last(), builder.norm(axis))

        stages = [partial(Layer, builder, before, name) for before, name in pairwise([_EMBEDDING, *names])]
        super().__init__(builder, stages, names, stem=stem, ready=ready)


NETWORKS["gru"] = Network(axes=_axes, build=GRU, widths=(64, 128, 128), dimensions=(1, 2))
