"""Transformer encoders: `transformer` for texts, `vit` for images.

Token or patch embedding plus learnt positions, encoder layers (`models.networks.attention`), norm, mean over the
positions that
are there, classifier. `widths` are (embedding, feed-forward), `blocks` is (layers,). Every layer is a stage; features
keep one axis, `stream`, so every kind of exit but DepthFL's bottleneck fits, and every layer can be left out.

Vocabulary, positions, patches and classes are never cut; of the embeddings, columns are. Embeddings belong to no stage:
every depth holds them, and where the last layer of a depth is private they are not. Normalisation is layer norm over
the features of the build, or none; it does not ask for HeteroFL's Scaler, which a norm right after it undoes.

- `pooler`: a tanh layer between the mean and the classifier, as BERT and RoBERTa have (InclusiveFL).
- `tied`: the classifier's weight is the token embedding, for tasks whose answer is the next token: the last `classes`
  tokens are the classes, those before (padding, unknown) are no answers. Such a network reads the last position that
  is there instead of the mean.

A text without a single token counts as one of padding only, all of it present: its logits are finite.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.algebra import groups
from models.algebra.axes import Axis, Kind
from models.algebra.declarations import declare
from models.errors import SettingError
from models.networks.attention import Layer, Tokens, width_axes
from models.networks.builder import CLASSES, IMAGE, Builder, ends
from models.networks.network import Network
from models.networks.registry import NETWORKS
from models.networks.spec import PADDING, NetworkSpec
from models.networks.staged import Staged

STREAM, POSITION, VOCABULARY = "stream", "position", "vocabulary"
WIDTHS, LAYERS = (128, 256), (4,)
NORMS = ("layer", "none")


class Pooled(nn.Module):
    """`Tokens` → (N, C): norm, then the mean over what is there, or its last position; then the pooler if there is one.

    Args:
        builder: makes the layers.
        axis: of the features.
    """

    def __init__(self, builder: Builder, axis: str) -> None:
        super().__init__()
        self.last = builder.spec.tied
        self.norm = builder.norm(axis)
        self.pooler = nn.Sequential(builder.linear(axis, axis), nn.Tanh()) if builder.spec.pooler else nn.Identity()

    def forward(self, tokens: Tokens) -> Tensor:
        """Pool."""
        x_NTC: Tensor = self.norm(tokens.x_NTC)
        return self.pooler(self._read(x_NTC, tokens.present_NT))  # type: ignore[no-any-return]

    def _read(self, x_NTC: Tensor, present_NT: Tensor | None) -> Tensor:
        if present_NT is None:
            return x_NTC[:, -1] if self.last else x_NTC.mean(1)
        if self.last:
            places_NT = present_NT * torch.arange(1, x_NTC.shape[1] + 1, device=x_NTC.device)
            return x_NTC[torch.arange(x_NTC.shape[0], device=x_NTC.device), places_NT.argmax(1)]
        weights_NT = present_NT.to(x_NTC.dtype)
        return (x_NTC * weights_NT[:, :, None]).sum(1) / weights_NT.sum(1, keepdim=True)


class Encoder(Staged):
    """Input → logits (N, classes); one stage per layer.

    Args:
        builder: makes the layers.
        stem: makes `Tokens` of the input.
        tokens: the token embedding that a tied classifier uses.
    """

    def __init__(self, builder: Builder, stem: nn.Module, tokens: nn.Embedding | None = None) -> None:
        count = builder.spec.blocks[0]

        def stage(number: int) -> nn.Module:
            layer = Layer(builder, STREAM, number) if builder.holds(number) else nn.Identity()
            return declare(layer, block=number)

        def classifier(axis: str) -> nn.Module:
            return Tied(builder, tokens) if tokens is not None and builder.spec.tied else builder.classifier(axis)

        stages = [partial(stage, i) for i in range(1, count + 1)]
        ready = partial(Pooled, builder)
        super().__init__(builder, stages, [STREAM] * count, stem=lambda: stem, ready=ready, classifier=classifier)


# ---- texts -----------------------------------------------------------------------------------------------------------


def _text_axes(spec: NetworkSpec) -> dict[str, Axis]:
    fixed = [Axis(VOCABULARY, spec.vocabulary, Kind.TOKEN), Axis(POSITION, spec.input_shape[0], Kind.FIXED)]
    named = {axis.name: axis for axis in [*fixed, Axis(STREAM, spec.widths[0], group=groups.STREAM)]}
    return {CLASSES: ends(spec)[CLASSES]} | named | width_axes(spec)


class Embedded(nn.Module):
    """Tokens (N, T) int64 → `Tokens`, token plus position; T may be less than the spec's length, never more.

    Args:
        builder: makes the layers.
        tokens: the token embedding.
    """

    def __init__(self, builder: Builder, tokens: nn.Embedding) -> None:
        super().__init__()
        self.tokens = declare(tokens, stage=0)
        self.positions = declare(builder.embedding(POSITION, STREAM), stage=0)

    def forward(self, tokens_NT: Tensor) -> Tokens:
        """Embed."""
        present_NT = tokens_NT != PADDING
        present_NT = present_NT | ~present_NT.any(1, keepdim=True)
        return Tokens(self.tokens(tokens_NT) + self.positions.weight[: tokens_NT.shape[1]], present_NT)


class Tied(nn.Module):
    """Features (N, C) → logits, by products with the embeddings of the tokens that are classes.

    Args:
        builder: knows the number of classes.
        tokens: the token embedding; it stays where it is in the state, only the bias is added to it here.
    """

    def __init__(self, builder: Builder, tokens: nn.Embedding) -> None:
        super().__init__()
        self.classes = builder.size(CLASSES)
        self.bias = nn.Parameter(torch.zeros(self.classes))
        self._tokens = (tokens,)  # in a tuple, or the state would have its weight twice
        declare(self, {"bias": (CLASSES,)})

    def forward(self, x_NC: Tensor) -> Tensor:
        """Logits."""
        return F.linear(x_NC, self._tokens[0].weight[-self.classes :], self.bias)


class Transformer(Encoder):
    """Tokens (N, T) int64, padding 0 → logits (N, classes)."""

    def __init__(self, builder: Builder) -> None:
        spec = builder.spec
        if spec.tied and spec.classes > spec.vocabulary:
            allowed = f"off: {spec.classes} classes cannot all be among {spec.vocabulary} tokens"
            raise SettingError("tied", spec.tied, allowed)
        tokens = builder.embedding(VOCABULARY, STREAM)
        super().__init__(builder, Embedded(builder, tokens), tokens)


# ---- images ----------------------------------------------------------------------------------------------------------


def patch_of(sides: tuple[int, ...]) -> int:
    """Side of a patch in pixels, by the smaller side of an image: 2 below 16, 4 to 32, 8 to 64, 16 above."""
    side = min(sides)
    return 2 if side < 16 else 4 if side <= 32 else 8 if side <= 64 else 16


def _image_axes(spec: NetworkSpec) -> dict[str, Axis]:
    _, height, width = spec.input_shape
    patch = patch_of((height, width))
    count = -(-height // patch) * -(-width // patch)
    return (
        ends(spec)
        | {POSITION: Axis(POSITION, count, Kind.FIXED), STREAM: Axis(STREAM, spec.widths[0], group=groups.STREAM)}
        | width_axes(spec)
    )


class Patches(nn.Module):
    """Images (N, C, H, W) → `Tokens`: patches side by side, embedded, plus position; the last are filled up with zeros.

    Positions begin as N(0, 1), as large as normalised pixels make the patches: from 0.02, as in a text, where tokens
    begin as small, plain SGD takes several times as long to tell one place from another.

    Args:
        builder: makes the layers.
    """

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        self.patch = patch_of(builder.spec.input_shape[1:])
        self.embedding = declare(builder.conv(IMAGE, STREAM, self.patch, stride=self.patch, bias=True), stage=0)
        self.positions = declare(builder.embedding(POSITION, STREAM, deviation=1.0), stage=0)

    def forward(self, x_NCHW: Tensor) -> Tokens:
        """Embed."""
        height, width = x_NCHW.shape[2:]
        whole_NCHW = F.pad(x_NCHW, (0, -width % self.patch, 0, -height % self.patch))
        patches_NTC = self.embedding(whole_NCHW).flatten(2).transpose(1, 2)
        return Tokens(patches_NTC + self.positions.weight, None)


class ViT(Encoder):
    """x (N, C, H, W) → logits (N, classes)."""

    def __init__(self, builder: Builder) -> None:
        if builder.spec.tied:
            raise SettingError("tied", True, "off for a network without a vocabulary")
        super().__init__(builder, Patches(builder))


NETWORKS["transformer"] = Network(
    axes=_text_axes, build=Transformer, widths=WIDTHS, blocks=LAYERS, dimensions=(1,), fixed_widths=True, norms=NORMS
)
NETWORKS["vit"] = Network(
    axes=_image_axes, build=ViT, widths=WIDTHS, blocks=LAYERS, smallest=4, fixed_widths=True, norms=NORMS
)
