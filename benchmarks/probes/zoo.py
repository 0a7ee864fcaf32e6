"""Other people's networks, cut: what is found of each, how it is proved, and what tiers really hold (docs/networks.md).

Weights are drawn; nothing is downloaded. `share` is of the trained numbers of the whole network.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path
from time import process_time

from benchmarks.document import DOCS, replace_part, table
from benchmarks.task import Command, Options
from models.algebra.axes import Along, Dim, Kind, stretches_of
from models.algebra.plans import Plan
from models.cost import cost_of
from models.foreign.atoms import size_of
from models.foreign.axes import CLASSES, Found
from models.foreign.check import Proof
from models.foreign.trace import Held
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.vision_library import torchvision_part

DOCUMENT = DOCS / "networks.md"
RATES = tuple(Fraction(1, count) for count in (1, 2, 4, 8))
IMAGE, SMALL_IMAGE, TEXT = (3, 32, 32), (3, 64, 64), (12,)
VOCABULARY = 60


def _own(name: str, shape: tuple[int, ...], classes: int = 10, vocabulary: int = 0) -> NetworkSpec:
    return NetworkSpec(f"benchmarks.probes.zoo_networks:{name}", shape, classes, vocabulary=vocabulary)


def _small(name: str, shape: tuple[int, ...], vocabulary: int = 0) -> NetworkSpec:
    return NetworkSpec(f"benchmarks.probes.zoo_modules:{name}", shape, 10, vocabulary=vocabulary)


ZOO: dict[str, NetworkSpec] = {
    "own: depthwise, squeeze and excitation": _small("Squeezed", IMAGE),
    "own: fused attention, class token, gates": _small("Fused", IMAGE),
    "own: groups, shuffle, concatenation": _small("Shuffled", IMAGE),
    "own: LSTM": _small("lstm", TEXT, vocabulary=VOCABULARY),
    "own: GRU": _small("gru", TEXT, vocabulary=VOCABULARY),
    "own: LSTM, both ways": _small("both_ways", TEXT, vocabulary=VOCABULARY),
    "own: low-rank adapters": _small("Adapted", IMAGE),
    "bert-tiny": NetworkSpec("bert-tiny", TEXT, 10, vocabulary=VOCABULARY),
    "GPT-2, small (transformers)": _own("gpt2", TEXT, VOCABULARY, VOCABULARY),
    "Llama, small (transformers)": _own("llama", TEXT, VOCABULARY, VOCABULARY),
    "BERT, small (transformers)": _own("bert", TEXT, vocabulary=VOCABULARY),
    "DistilBERT, small (transformers)": _own("distilbert", TEXT, vocabulary=VOCABULARY),
    "Phi-3, small (transformers)": _own("phi3", TEXT, VOCABULARY, VOCABULARY),
    "T5, encoder, small (transformers)": _own("T5", TEXT, vocabulary=VOCABULARY),
    "ViT, small (transformers)": _own("hf_vit", IMAGE),
    "MLP-Mixer, small (timm)": _own("mixer", IMAGE),
    "ConvNeXt V2, Atto (timm)": _own("convnext_v2", IMAGE),
    "GhostNet x0.5 (timm)": _own("ghostnet", SMALL_IMAGE),
    "DenseNet, small (torchvision)": _own("densenet", SMALL_IMAGE),
    "ResNeXt, small (torchvision)": _own("resnext", SMALL_IMAGE),
    "MobileNetV2 (torchvision)": NetworkSpec("torchvision.models:mobilenet_v2", SMALL_IMAGE, 10),
    "MNASNet x0.5 (torchvision)": NetworkSpec("torchvision.models:mnasnet0_5", SMALL_IMAGE, 10),
    "SqueezeNet 1.1 (torchvision)": NetworkSpec("torchvision.models:squeezenet1_1", SMALL_IMAGE, 10),
    "RegNetX 400MF (torchvision)": NetworkSpec("torchvision.models:regnet_x_400mf", SMALL_IMAGE, 10),
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
        stages: at which it can be cut in depth; 0 or two and more.
        whole: share of the parameters that are along no axis.
        seconds: of the processor, to trace and prove it.
        shares: of the parameters, that tiers of `RATES` hold.
    """

    name: str
    axes: int
    proof: Proof
    not_understood: int
    parameters: int
    stages: int
    whole: float
    seconds: float
    shares: tuple[float, ...]


def row(name: str) -> Row:
    """Trace, prove and count one network of the zoo.

    Raises:
        SettingError: it cannot be cut, or a library is missing.
    """
    torchvision_part("models")  # imported once, as this project does, before an import path names it
    prove = NETWORKS[ZOO[name].name].prove
    assert prove is not None  # none of them is ours
    began = process_time()
    found, proof = prove(ZOO[name])
    took = process_time() - began
    spec = completed(ZOO[name])
    trained = [(prod(map(size_of, one.dims)), found.dims[tensor]) for tensor, one in _trained(found)]
    parameters = [cost_of(spec, Plan(rate)).parameters for rate in RATES]
    return Row(
        name=name,
        axes=sum(axis.kind is Kind.WIDTH for axis in layout(spec).axes.values()),
        proof=proof,
        not_understood=len(found.traced.not_understood),
        parameters=parameters[0],
        stages=found.stages.count,
        whole=sum(size for size, dims in trained if not any(_is_cut(dim) for dim in dims)) / sum(s for s, _ in trained),
        seconds=took,
        shares=tuple(part / parameters[0] for part in parameters),
    )


def _trained(found: Found) -> list[tuple[str, Held]]:
    return [(name, held) for name, held in found.traced.tensors.items() if held.parameter]


def _is_cut(dim: Dim) -> bool:
    return any(isinstance(one, Along) and one.axis != CLASSES for one in stretches_of(dim, 0))


def cells(one: Row) -> list[str]:
    """A line of the table."""
    shares = [f"{share:.1%}" for share in one.shares[1:]]
    errors = [f"{error:.0e}" for error in (one.proof.moved, max(one.proof.differs, one.proof.shortened))]
    counts = [str(one.axes), str(one.stages or "-"), str(one.not_understood)]
    return [one.name, *counts, *errors, f"{one.parameters:,}", f"{one.whole:.1%}", *shares, f"{one.seconds:.1f}"]


HEADS = [
    *("network", "axes", "stages", "not understood", "moved", "cut", "parameters", "whole"),
    *(f"at {rate}" for rate in RATES[1:]),
    "seconds",
]


def written(document: Path) -> dict[str, list[str]]:
    """The lines of the table that a document has, by network; none where its columns are others."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in document.read_text(encoding="utf-8")
        .partition("<!-- zoo:begin -->")[2]
        .partition("<!--")[0]
        .splitlines()
        if line.startswith("|")
    ]
    return {one[0]: one for one in rows if one[0] in ZOO} if rows and rows[0] == HEADS else {}


def _run(options: Options) -> int:
    """Print the table, and write it."""
    wanted = [name for name in ZOO if not options.only or any(word in name for word in options.only)]
    lines: dict[str, list[str]] = {}
    for name in wanted:
        lines[name] = cells(row(name))
        print("  ".join(lines[name]), flush=True)
        if options.write:  # others' lines stay
            known = written(DOCUMENT) | lines
            kept = [known[name] for name in ZOO if name in known]
            replace_part(DOCUMENT, "zoo", table(HEADS, kept, markdown=True))
    print(table(HEADS, list(lines.values())))
    return 0


TASK = Command(_run, defaults={"only": (), "write": False})
