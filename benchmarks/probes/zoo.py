"""Other people's networks, cut: what is found of each, how it is proved, and what tiers really hold (docs/networks.md).

Weights are drawn; nothing is downloaded. `share` is of the trained numbers of the whole network.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from benchmarks.document import DOCS, replace_part, table
from benchmarks.task import Command, Options
from models.algebra.axes import Kind
from models.algebra.plans import Plan
from models.cost import cost_of
from models.foreign.check import Proof
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.named import library
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.vision_library import torchvision_part

DOCUMENT = DOCS / "networks.md"
RATES = tuple(Fraction(1, count) for count in (1, 2, 4, 8))
IMAGE, SMALL_IMAGE, TEXT = (3, 32, 32), (3, 64, 64), (12,)
VOCABULARY = 60


def shufflenet(classes: int) -> nn.Module:
    """ShuffleNetV2 x0.5 of torchvision: shuffled channels, concatenations."""
    made: nn.Module = torchvision_part("models").shufflenet_v2_x0_5(num_classes=classes)
    return made


def swin(classes: int) -> nn.Module:
    """A small Swin transformer of torchvision: windows that are rolled, tables of biases."""
    made: nn.Module = torchvision_part("models").SwinTransformer(
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=classes,
    )
    return made


def vit(classes: int) -> nn.Module:
    """A small ViT of torchvision: `nn.MultiheadAttention`."""
    made: nn.Module = torchvision_part("models").VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=6,
        hidden_dim=42,
        mlp_dim=70,
        num_classes=classes,
    )
    return made


class LastWord(nn.Module):
    """Tokens (N, length) → logits (N, vocabulary) of the next one, of a language model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Any) -> Any:
        """Logits."""
        return self.model(tokens).logits[:, -1]


def gpt2(vocabulary: int) -> nn.Module:
    """A small GPT-2 of transformers: fused queries, keys and values; the head is the embedding."""
    transformers = library("transformers", "a language model")
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_embd=44,
        n_layer=2,
        n_head=4,
        n_positions=20,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LastWord(transformers.GPT2LMHeadModel(config))


def llama(vocabulary: int) -> nn.Module:
    """A small Llama of transformers: fewer heads of keys than of queries, gates, rotated positions."""
    transformers = library("transformers", "a language model")
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=6,
        intermediate_size=62,
        max_position_embeddings=20,
        use_cache=False,
    )
    return LastWord(transformers.LlamaForCausalLM(config))


def _own(name: str, shape: tuple[int, ...], classes: int = 10, vocabulary: int = 0) -> NetworkSpec:
    return NetworkSpec(f"benchmarks.probes.zoo:{name}", shape, classes, vocabulary=vocabulary)


ZOO: dict[str, NetworkSpec] = {
    "bert-tiny": NetworkSpec("bert-tiny", TEXT, 10, vocabulary=VOCABULARY),
    "GPT-2, small (transformers)": _own("gpt2", TEXT, VOCABULARY, VOCABULARY),
    "Llama, small (transformers)": _own("llama", TEXT, VOCABULARY, VOCABULARY),
    "ViT, small (torchvision)": _own("vit", IMAGE),
    "Swin, small (torchvision)": _own("swin", IMAGE),
    "ShuffleNetV2 x0.5 (torchvision)": _own("shufflenet", SMALL_IMAGE),
    "mobilenet-v4-small": NetworkSpec("mobilenet-v4-small", IMAGE, 10),
    "resnet-18": NetworkSpec("resnet-18", IMAGE, 10),
    "mobilenet-v3-small": NetworkSpec("mobilenet-v3-small", IMAGE, 10),
    "vit-tiny": NetworkSpec("vit-tiny", IMAGE, 10),
    "convnext-tiny": NetworkSpec("convnext-tiny", IMAGE, 10),
    "resnet-50": NetworkSpec("resnet-50", IMAGE, 10),
    "efficientnet-b0": NetworkSpec("efficientnet-b0", IMAGE, 10),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of one network.

    Attributes:
        name: in the table.
        axes: number of width axes.
        proof: of them.
        not_understood: operations without a rule.
        parameters: of the whole network.
        shares: of the parameters, that tiers of `RATES` hold.
    """

    name: str
    axes: int
    proof: Proof
    not_understood: int
    parameters: int
    shares: tuple[float, ...]


def row(name: str) -> Row:
    """Trace, prove and count one network of the zoo.

    Raises:
        SettingError: it cannot be cut, or a library is missing.
    """
    spec = completed(ZOO[name])
    prove = NETWORKS[spec.name].prove
    assert prove is not None  # none of them is ours
    found, proof = prove(spec)
    parameters = [cost_of(spec, Plan(rate)).parameters for rate in RATES]
    return Row(
        name=name,
        axes=sum(axis.kind is Kind.WIDTH for axis in layout(spec).axes.values()),
        proof=proof,
        not_understood=len(found.traced.not_understood),
        parameters=parameters[0],
        shares=tuple(part / parameters[0] for part in parameters),
    )


def cells(one: Row) -> list[str]:
    """A line of the table."""
    shares = [f"{share:.1%}" for share in one.shares[1:]]
    errors = [f"{error:.0e}" for error in (one.proof.moved, one.proof.differs)]
    return [one.name, str(one.axes), str(one.not_understood), *errors, f"{one.parameters:,}", *shares]


HEADS = ["network", "axes", "not understood", "moved", "cut", "parameters", *(f"at {rate}" for rate in RATES[1:])]


def _run(options: Options) -> int:
    """Print the table, and write it."""
    wanted = [name for name in ZOO if not options.only or any(word in name for word in options.only)]
    lines = []
    for name in wanted:
        lines.append(cells(row(name)))
        print("  ".join(lines[-1]), flush=True)
    print(table(HEADS, lines))
    if options.write:
        replace_part(DOCUMENT, "zoo", table(HEADS, lines, markdown=True))
    return 0


TASK = Command(_run, defaults={"only": (), "write": False})
