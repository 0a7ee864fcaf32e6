"""The encoder layer of a transformer, in a form whose width can be cut.

Pre-norm, as in ViT (Dosovitskiy et al., ICLR 2021, eq. 2 and 3): attention and a feed-forward layer with GELU, each
after a norm and added to the residual stream, which is one axis through the whole network. Nothing is dropped at
random: two runs with one seed are the same run.

Width, by the spec's `whole_heads`:

- off: every head stays and gets narrower (HeteroFL §4, which keeps the first d·r of the d coordinates of each head).
  The axis counts the coordinates of a head; queries, keys, values and the output's inputs have one such run per head.
- on: heads stay whole and there are fewer. The axis counts heads.

The scale of attention is 1/sqrt(coordinates of a head in *this* build), as in HeteroFL: narrow queries and keys then
have products as large as wide ones. So a narrow part does not compute exactly what the full network does with the rest
at zero; it does after its queries are multiplied by sqrt(d_full / d_part). Whole heads need no such factor.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.algebra.axes import Along, Axis
from models.algebra.groups import HEADS, MLP
from models.errors import SettingError
from models.networks.builder import Builder
from models.networks.spec import NetworkSpec


class Tokens(NamedTuple):
    """What flows from layer to layer.

    Attributes:
        x_NTC: features of every position.
        present_NT: whether a position is there (bool), or padding; None where all are.
    """

    x_NTC: Tensor
    present_NT: Tensor | None


def width_axes(spec: NetworkSpec) -> dict[str, Axis]:
    """Make the axes of all layers: `head{i}` and `hidden{i}` of layer i, 1-based.

    Raises:
        SettingError: (key heads) heads do not divide the embedding width.
    """
    (width, hidden), heads = spec.widths, spec.heads
    if heads < 1 or width % heads:
        raise SettingError("heads", heads, f"a whole number that divides the embedding width, which is {width}")
    axes = {}
    for i in range(1, spec.blocks[0] + 1):
        axes[f"head{i}"] = Axis(f"head{i}", heads if spec.whole_heads else width // heads, group=HEADS)
        axes[f"hidden{i}"] = Axis(f"hidden{i}", hidden, group=MLP)
    return axes


class Attention(nn.Module):
    """Multi-head self-attention in which padding is not attended to.

    Args:
        builder: makes the layers.
        stream: axis of the features.
        head: axis of the heads, see the module.
    """

    ATTENDS = True  # adapters ask for layers of attention

    def __init__(self, builder: Builder, stream: str, head: str) -> None:
        super().__init__()
        spec = builder.spec
        each = spec.widths[0] // spec.heads
        self.heads = builder.size(head) if spec.whole_heads else spec.heads
        # Coordinates are ordered (query, key, value), head, coordinate of the head.
        three = Along(head, 3, each) if spec.whole_heads else Along(head, 3 * spec.heads)
        one = Along(head, 1, each) if spec.whole_heads else Along(head, spec.heads)
        self.queries_keys_values = builder.linear(stream, three)
        self.output = builder.linear(one, stream)

    def forward(self, x_NTC: Tensor, present_NT: Tensor | None) -> Tensor:
        """(N, T, C) → (N, T, C)."""
        query_NHTD, key_NHTD, value_NHTD = (
            self.queries_keys_values(x_NTC).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mask = None if present_NT is None else present_NT[:, None, None, :]
        # PyTorch's own scale is what we want: one over the root of the last dimension of these queries.
        mixed_NHTD = F.scaled_dot_product_attention(query_NHTD, key_NHTD, value_NHTD, attn_mask=mask)
        return self.output(mixed_NHTD.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One encoder layer, `Tokens` → `Tokens`.

    Args:
        builder: makes the layers.
        stream: axis of the features.
        number: of the layer, 1-based; names its axes.
    """

    def __init__(self, builder: Builder, stream: str, number: int) -> None:
        super().__init__()
        hidden = f"hidden{number}"
        self.norm1 = builder.norm(stream)
        self.attention = Attention(builder, stream, f"head{number}")
        self.step1 = builder.step()
        self.norm2 = builder.norm(stream)
        self.expand = builder.linear(stream, hidden)
        self.contract = builder.linear(hidden, stream)
        self.step2 = builder.step()

    def forward(self, tokens: Tokens) -> Tokens:
        """Add what attention finds, then what the feed-forward layer makes of it."""
        x_NTC, present_NT = tokens
        x_NTC = x_NTC + self.step1(self.attention(self.norm1(x_NTC), present_NT))
        x_NTC = x_NTC + self.step2(self.contract(F.gelu(self.expand(self.norm2(x_NTC)))))
        return Tokens(x_NTC, present_NT)
