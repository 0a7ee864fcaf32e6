"""What a network is made from: a few scalars that cross the wire.

The same spec builds the full network, any submodel of it (given the kept units per axis) and the declaration of its
tensors.
"""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, asdict, dataclass

from models.adapters.adapter import Adapter
from models.algebra.rates import FULL, Rate, read_rate
from models.errors import SettingError
from models.losses import CLASSIFICATION, TASKS
from models.settings import Scalar

# What a network ends in; see `models.networks.staged`.
EXITS = ("auto", "last", "plain", "bottleneck", "convolutional", "shared")
SPATIAL = ("bottleneck", "convolutional")  # those of them that need features that are images
_MOST_UNITS, _MOST_BLOCKS, _MOST_STAGES = 2**24, 2**10, 2**8  # of an axis; of a stage, or nets; of a network
PADDING = 0  # the token that fills a short text up, at its end


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that a network's shape depends on.

    Attributes:
        name: a registered network, see `NETWORKS`.
        input_shape: of one input: (channels, height, width) of an image, (channels, time) of a signal, (length,) of
            a text.
        classes: number of labels.
        widths: units per layer or stage at full width; () takes the network's default, half of it for inputs below 16
            pixels, which have a quarter of the positions to fill.
        blocks: residual blocks per stage; () takes the network's default. Networks without blocks ignore it.
        norm: one of `models.norms.layers.NORMS` that the network can use; "" takes its usual one.
        scaler: whether HeteroFL's Scaler stands before every normalisation.
        rates: the widths that keep statistics of their own, in the order of `ascending` (norm "batch-per-width" only);
            () where every submodel has norms of its own.
        vocabulary: number of different tokens of a text; 0 where inputs are no text.
        exits: one of `EXITS`.
        step_sizes: whether the branch of a residual block is multiplied by a learnt step size (NeFL).
        heads: attention heads of a transformer.
        whole_heads: whether its width axis counts heads; else every head stays and gets narrower.
        tied: whether a transformer's classifier has the token embedding as its weight (the answer is the next token).
        pooler: whether a transformer has a tanh layer before its classifier.
        private: what every submodel of `variants` has a copy of its own of, among
            `models.variants.per_size_parameters.PRIVATE`.
        variants: plans of the submodels that have such copies, as JSON.
        bases: number of independent nets that stand side by side (Split-Mix); 0 is one ordinary network.
        options: what a network that is not built in was told, by the names of its `OPTIONS`; see `Builder.option`.
        fingerprint: of the axes, where they were found and not declared: who finds others has another network.
        adapter: what is trained beside a frozen base; None trains everything.
        base: digest of the base's tensors (`models.base_store`); "" where they are not known yet: zeros.
        ends: modules after which a network that is an ordinary module can end; () where its stages are found.
        dual: whether every norm exists twice, for clean and for adversarial inputs (see `models.norms.dual_norm`).
        task: what its outputs are asked for, one of `models.losses.TASKS`; of the other tasks `classes` counts outputs.

    Raises:
        SettingError: a size that no network has: a device is told what to build by whoever asks it.
    """

    name: str
    input_shape: tuple[int, ...]
    classes: int
    _: KW_ONLY
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    norm: str = ""
    scaler: bool = False
    rates: tuple[Rate, ...] = (FULL,)
    vocabulary: int = 0
    exits: str = "auto"
    step_sizes: bool = False
    heads: int = 4
    whole_heads: bool = False
    tied: bool = False
    pooler: bool = False
    private: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    bases: int = 0
    dual: bool = False
    fingerprint: str = ""
    options: tuple[tuple[str, Scalar], ...] = ()
    task: str = CLASSIFICATION
    ends: tuple[str, ...] = ()
    adapter: Adapter | None = None
    base: str = ""

    def __post_init__(self) -> None:
        for what, sizes, most in (
            ("input_shape", self.input_shape, _MOST_UNITS),
            ("widths", self.widths, _MOST_UNITS),
            ("blocks", self.blocks, _MOST_BLOCKS),
            ("classes", (self.classes,), _MOST_UNITS),
            ("heads", (self.heads,), _MOST_UNITS),
            ("vocabulary", (self.vocabulary,), _MOST_UNITS),
            ("bases", (self.bases,), _MOST_BLOCKS),
        ):
            if len(sizes) > _MOST_STAGES or not all(0 <= size <= most for size in sizes):
                raise SettingError(what, sizes[0] if len(sizes) == 1 else sizes[:8], f"whole numbers up to {most}")

    def to_json(self) -> str:
        """Serialise."""
        fields = {**asdict(self), "rates": [str(rate) for rate in self.rates]}
        if self.task == CLASSIFICATION:  # absent where it is not used
            del fields["task"]
        if not self.ends:
            del fields["ends"]
        if self.adapter is None:
            del fields["adapter"], fields["base"]
        else:
            fields["adapter"] = self.adapter.fields()
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> NetworkSpec:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not a network.
        """
        fields = json.loads(text)
        try:
            if fields.get("task", CLASSIFICATION) not in TASKS:
                raise ValueError(f"task {str(fields['task'])[:40]!r}: allowed is {', '.join(TASKS)}")
            shape = tuple(map(int, fields.pop("input_shape")))
            widths, blocks = tuple(map(int, fields.pop("widths"))), tuple(map(int, fields.pop("blocks")))
            rates = tuple(read_rate(rate) for rate in fields.pop("rates"))
            options = tuple((str(name), value) for name, value in fields.pop("options"))
            private, variants = tuple(map(str, fields.pop("private"))), tuple(map(str, fields.pop("variants")))
            ends = tuple(map(str, fields.pop("ends", ())))
            told = fields.pop("adapter", None)
            adapter = None if told is None else Adapter(**{**told, "targets": tuple(map(str, told["targets"]))})
            return NetworkSpec(
                input_shape=shape,
                widths=widths,
                blocks=blocks,
                rates=rates,
                private=private,
                variants=variants,
                options=options,
                ends=ends,
                adapter=adapter,
                **fields,
            )
        except (TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"not a network: {text[:80]!r} ({error!r})") from None
