"""The sections of a run's configuration that are the server's own; the others stand with what they are about."""

from __future__ import annotations

from dataclasses import dataclass

from models.algebra.precisions import FLOAT32, PRECISIONS
from models.networks.registry import NETWORKS
from models.norms.layers import NORMS
from models.settings import ELSEWHERE, Names, Range, Text, at_least, between, check, more_than, setting
from protocol.requests import WORK_RANGES
from protocol.training_way import WAYS
from server_app.folder.tracking import TRACKERS
from server_app.metrics import AUTO, METRICS
from strategies import METHODS
from strategies.aggregation import AGGREGATIONS
from strategies.selection import SELECTORS
from strategies.settings import DOWNLINK, SCHEDULES, AggregationRules, RoundRules, TierRules
from strategies.tiers.tier import ALLOWED_TIERS

_MOST = {name: most for name, (_, most) in WORK_RANGES.items()}  # that a device can be asked for
_NUMBERS = Text('"", or whole numbers of at least 1, such as "64, 128"')


class Checked:
    """A section whose values are looked at when it is made."""

    def __post_init__(self) -> None:
        """Hold every value against what is allowed.

        Raises:
            SettingError: names the key, the value and what is allowed.
        """
        check(self)


@dataclass(frozen=True, kw_only=True)
class Model(Checked):
    """What is trained, and by which method."""

    method: str = setting(
        "heterofl", "which part of the network a device gets; README says what each does", Names(METHODS, ELSEWHERE)
    )
    model: str = setting(
        "cnn",
        "`mlp`, `cnn` (HeteroFL's four convolutions), `cnn-flat` (two convolutions, hidden layer),"
        " `cnn-strided` (`cnn` with strides instead of pools, and group norm), `resnet` (pre-activation),"
        " `resnet-post` (the ordinary one), `vit`; for signals `cnn1d` and `mlp`; for texts and"
        " signals `gru`; for texts `transformer`",
        Names(NETWORKS, ELSEWHERE),
    )
    widths: str = setting(
        "",
        'units per layer or stage at full width, such as `"16, 32, 64, 128"`; of `transformer` and `vit` embedding and'
        ' feed-forward (`"128, 256"`); empty takes the network\'s own (64 to 512; half of that for images under 16'
        " pixels)",
        _NUMBERS,
    )
    blocks: str = setting(
        "",
        'residual blocks per stage of `resnet` (`"1, 1, 1, 2"`), layers of `transformer` and `vit` (`"4"`); of an'
        ' ordinary module those after which it can end (`"layer1, layer2"`); empty takes the network\'s own, or what is'
        " found",
        Text('"", whole numbers of at least 1, such as "2, 2", or names of modules, such as "layer1, layer2"'),
    )
    norm: str = setting(
        "auto",
        "`static-batch`, `batch-per-width` (`fjord`, `heterofl`, `smallest` only), `group`, `none`; for `transformer`"
        " and `vit` `layer` or `none`; `auto` is what the method's authors use, or the network's own",
        Names(("auto", *NORMS)),
    )
    scaler: str = setting(
        "auto",
        "HeteroFL's Scaler: `on`, `off`; `auto` is on for HeteroFL, FedRolex, ScaleFL and FedEcover",
        Names(("auto", "on", "off")),
    )
    exits: str = setting(
        "auto",
        "where the network predicts: `last`; after every stage `plain`, `bottleneck` (DepthFL's) or `convolutional`"
        " (ScaleFL's) exits; `shared` (one exit for every depth). `auto` is what the method needs, and what a method"
        " would not train is refused: `depthfl` has `bottleneck`, `scalefl` `convolutional` (both `plain` where"
        " features are no images), `inclusivefl` `plain`; each can have the others (`shared` where InclusiveFL's"
        " classifier is not private); all others `last`",
        Text("auto, last, plain, bottleneck, convolutional or shared"),
    )
    heads: int = setting(4, "attention heads of a transformer", at_least(1), read_by="model = transformer, vit")
    whole_heads: bool = setting(
        False,
        "whether a transformer's width counts heads, else every head stays and gets narrower",
        read_by="model = transformer, vit",
    )
    tied: bool = setting(
        False,
        "whether a `transformer`'s classifier is its token embedding, for texts whose answer is the next token"
        " (`shakespeare`); it then reads the last position instead of the mean",
        read_by="model = transformer",
    )
    pooler: bool = setting(
        False,
        "whether a `transformer` or `vit` has a tanh layer before its classifier, as BERT has",
        read_by="model = transformer, vit",
    )


@dataclass(frozen=True, kw_only=True)
class Adapters(Checked):
    """What is trained beside a frozen base."""

    adapter: str = setting(
        "",
        "what is trained beside a frozen network: `lora:16` pairs of low-rank factors of rank 16 for linear layers and"
        " the head, `head` the head alone; `tiers` are then ranks, and the network that `start` names, or the seed"
        " draws, is every device's base and never sent; empty trains everything",
        Text('"", "head", or "lora:16" for a rank of 16'),
    )
    adapter_alpha: float = setting(
        16.0, "α of `lora`, whose product counts α/R times, R being the full rank for every tier", more_than(0)
    )
    adapter_targets: str = setting(
        "linear",
        "which layers have a pair: `linear` all linear ones but the head, `attention` those of attention, `convolution`"
        ' all without groups, or names of axes as `flotilla inspect` prints them, such as `"hidden*"`; also several',
        Text('linear, attention, convolution, or names of axes, such as "hidden*"'),
    )
    adapter_dropout: float = setting(
        0.0, "probability that an input of the factor A is left out while a device trains", between(0, 0.99)
    )
    base_precision: str = setting(
        FLOAT32,
        "in which the frozen network's linear layers are held: `float32`, `bfloat16` or `int8`; a tier can say another"
        ' (`"a:16, b:8 int8"`)',
        Names(PRECISIONS),
    )


@dataclass(frozen=True, kw_only=True)
class Tiers(Checked, TierRules):
    """How much of the network a device can carry."""

    tiers: str = setting(
        "a:1, b:1/2, c:1/4, d:1/8, e:1/16",
        'names and rates (fractions in (0, 1]); `"a:1@4, b:1/2@3"` says how many stages a tier carries (not more than'
        " the network has), else the depths of the network are spread evenly over the tiers; with `adapter` ranks"
        ' (`"a:16, b:8"`), and how much of the base is held, in how many bits (`"b:8 base=1/2 int8"`,'
        ' [adapters.md](adapters.md)); `"a:1, b:mlp=1/4,heads=1/2"` has rates for groups of axes and keeps the rest'
        " whole ([networks.md](networks.md))",
        Text(ALLOWED_TIERS),
    )
    tier_proportions: str = setting(
        "",
        'share of the nodes per tier, such as `"1, 1, 2, 3, 3"`, widest first; empty is equal',
        Text('"", or a number for every tier'),
    )
    simulated_devices: str = setting(
        "",
        "virtual devices of a simulation: `mixed`, or a file that ends with `.toml`; their seconds, memory and absences"
        " count in place of the wall's; empty is none. See [fleet.md](fleet.md)",
        Text('"", mixed, or a file that ends with .toml'),
    )


@dataclass(frozen=True, kw_only=True)
class Rounds(Checked, RoundRules):
    """How long a run is, and what makes a round."""

    num_server_rounds: int = setting(20, "number of the last round", at_least(1))
    min_nodes: int = setting(
        0,
        "fewer nodes than this and the run does not start; at most `num-clients`; 0 is two, or the only one",
        at_least(0),
    )


@dataclass(frozen=True, kw_only=True)
class Selection(Checked):
    """Who takes part in a round."""

    selection: str = setting("uniform", "who takes part; see the table above", Names(SELECTORS, ELSEWHERE))


@dataclass(frozen=True, kw_only=True)
class Aggregation(Checked, AggregationRules):
    """What replies count."""

    aggregation: str = setting(
        "method",
        "`method` weighs as the method does; `examples` and `uniform` override it; `q-fedavg` and `q-fedsgd` count"
        " clients of high loss more; `fednova` evens out unequal numbers of local steps. See below",
        Names(AGGREGATIONS, ELSEWHERE),
    )
    aggregation_q: float = setting(
        1.0, "q; 0 is the plain mean", at_least(0), read_by="aggregation = q-fedavg, q-fedsgd"
    )
    dynamic_alpha: str = setting(
        "auto",
        'FedDyn\'s regulariser and correction, with any method: `"0"` is off, `"0.1"` its strength; `auto` is what the'
        " method's authors use (DepthFL 0.1, FedDyn 0.01)",
        Text('"auto", or 0 (off) or more in quotes, such as "0.1"'),
    )


@dataclass(frozen=True, kw_only=True)
class Down(Checked):
    """How the state reaches the clients."""

    codec_down: str = setting(
        "float32",
        "the state on its way to clients: `float32` sends it whole; `float16`, `bfloat16`, `qsgd`, `topk`,"
        " `eden` send those whose reply of the round before counted the encoded difference against the state"
        " they got then (with the settings above), the others the whole. `qsgd` is divided by 1 + ω, ω ="
        " min(block/(4s²), √block/s), so that what is left out does not grow: with few levels or one norm for"
        " much (`scale` of `CodecSettings`), clients lag behind by about ω rounds; `eden` is divided by its"
        ' own 1 + ω. Not with `slice-at = "server"` or clusters',
        Names(DOWNLINK),
    )


@dataclass(frozen=True, kw_only=True)
class Training(Checked):
    """What a device does with its part."""

    local_epochs: int = setting(3, "passes over the client's training examples", between(1, _MOST["local_epochs"]))
    local_steps: int = setting(
        0,
        "steps a round in place of passes, over and over the shuffled examples; 0 is off",
        between(0, _MOST["local_steps"]),
    )
    tier_steps: str = setting(
        "",
        'steps by tier in place of `local-steps`, such as `"8, 4, 2"`, widest first; empty is the same for all',
        Text('"", or a whole number of at least 1 for every tier'),
    )
    batch_size: int = setting(
        16, "examples a step; a last batch of one joins the one before it", between(1, _MOST["batch_size"])
    )
    learning_rate: float = setting(0.1, "of SGD at round 1", more_than(0))
    learning_rate_schedule: str = setting(
        "cosine", "`constant`, `step`, `exponential`, `cosine` (to 0 over the run), by round", Names(SCHEDULES)
    )
    learning_rate_milestones: str = setting(
        "",
        'rounds after which `step` decays, such as `"150, 250"`',
        _NUMBERS,
        read_by="learning-rate-schedule = step",
    )
    learning_rate_decay: float = setting(
        0.1,
        "factor of `step` and `exponential`",
        more_than(0, 1),
        read_by="learning-rate-schedule = step, exponential",
    )
    momentum: float = setting(0.9, "of SGD, fresh each round; 0 is none", Range(0, 1, below=True))
    weight_decay: float = setting(0.0005, "of SGD; 0 is none", at_least(0))
    clip_norm: float = setting(1.0, "L2 norm to which every step's gradient is clipped; 0 is off", at_least(0))
    mixed_precision: bool = setting(
        False,
        "forward and backward in bfloat16 on devices that have instructions for it, in float32 on others (its price:"
        " docs/results.md)",
    )
    train_as: str = setting(
        "auto",
        "`auto`: networks of convolutions, linear layers, static batch norm, ReLU and pools are trained on CPUs with"
        " backward passes of their own, several times faster, to the same numbers but for the order of float32 sums;"
        " whatever these do not cover, and everything with `loop`, by autograd, with `auto` with channels innermost"
        " until a convolution has more than 128. config.json says of every tier which",
        Names(WAYS),
    )
    device: str = setting("auto", "`auto` (CUDA where present), `cpu`, `cuda`", Names(("auto", "cpu", "cuda")))
    threads: int = setting(
        1, "threads of a CPU client; part of the result, since float sums depend on it", between(1, _MOST["threads"])
    )


@dataclass(frozen=True, kw_only=True)
class RunSettings(Checked):
    """The run itself."""

    seed: int = setting(1, "every draw comes from (seed, round, node, purpose)", at_least(0))
    evaluate_every: int = setting(1, "in rounds; the last round is always evaluated", at_least(1))
    checkpoint_every: int = setting(1, "in rounds; the last round is always saved", at_least(1))
    run_dir: str = setting("", "run folder; empty is `runs/<time>-<method>-<dataset>`")
    resume: str = setting("", "run folder to go on with; its configuration must be the same; empty starts anew")
    metric: str = setting(
        AUTO,
        "the headline, by which the best round is chosen and a run ends: `accuracy`, `balanced-accuracy`, `f1`, `auc`"
        " (macro means; torchmetrics, extra `metrics`), `perplexity`, `loss`; of a regression `rmse`, `mae`; `auto` is"
        " `accuracy` or `rmse`",
        Names((AUTO, *METRICS)),
    )
    more_metrics: bool = setting(
        False,
        "whether every metric that fits the task is measured in every evaluation, accuracy by class and confusion"
        " matrix too (extra `metrics`)",
    )
    target: str = setting("", 'value of `metric` at which a run ends, in quotes, such as `"0.95"`; empty is none')
    patience: int = setting(
        0, "evaluations in a row without a better `metric` after which a run ends; 0 is never", at_least(0)
    )
    tracker: str = setting(
        "none",
        "who gets every round's numbers beside TensorBoard's events: `mlflow`, `wandb` or `trackio`, each an extra of"
        " that name, offline: into the run folder, and nothing is sent; `none`: nobody else",
        Names(TRACKERS),
    )
    start: str = setting(
        "",
        "what a new run begins from: a `.safetensors` file, or the folder of a finished run; names and shapes must be"
        " the network's. Empty draws it. Not with `ifca`, whose clusters must begin unlike",
    )
    start_new_heads: bool = setting(
        False,
        "whether tensors that count classes are drawn where `start` has other classes, or none",
        read_by="start",
    )
    client_state: str = setting(
        "",
        "folder in which every device keeps what it needs from round to round (FedDyn, error feedback); empty: in"
        " memory, lost when the device restarts. `flotilla run` sets `clients/` in the run folder, so that a resumed"
        " simulation finds it, but not with `--cluster`; a device names its own in its node config",
    )
