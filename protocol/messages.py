"""Typed requests and replies, and how they become Flower records and back.

Everything a client needs to know is in its request: which part of which network, what to optimise, how to reply. The
server's method never crosses the wire. Nothing of the plan comes back: the server decodes against what it remembers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from math import inf, isfinite
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol.arrays import WireError

VERSION = 1
# Message types: flwr's categories with our actions.
HELLO, STATISTICS, TRAIN, EVALUATE = "query.hello", "query.statistics", "train.part", "evaluate.part"
LOSSES, GRADIENTS = "query.losses", "query.gradients"
STATE, DIFFERENCE, MOMENTS, GRADIENT = "state", "difference", "moments", "gradient"

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)

NodeId = int | str
Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Optimiser:
    """Plain SGD, fresh every round.

    Attributes:
        learning_rate: step size of this round.
        momentum: heavy-ball factor; 0 is none.
        weight_decay: L2 factor added to the gradient.
        clip_norm: gradients are scaled down to this L2 norm; 0 is off.
    """

    learning_rate: float
    momentum: float = 0.0
    _: KW_ONLY
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What to optimise: a registered objective of the client and its settings."""

    name: str = "cross-entropy"
    settings: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How a client computes, and what it measures beside.

    Attributes:
        local_epochs: passes over the client's training examples.
        batch_size: examples a step.
        mixed_precision: forward and backward in bfloat16 where the device supports it.
        threads: intra-op threads of a CPU client; part of the result, since float sums depend on it.
        device: "auto", "cpu" or "cuda".
        local_steps: optimiser steps a round in place of epochs, over and over the shuffled examples; 0 is off.
        measure_loss: also reply with "loss-before": the mean loss over all training examples of the part as received,
            in evaluation mode and without augmentation.
        measure_norm: also reply with "norm": the L2 norm of the difference over all parameters together, before it is
            encoded. Running statistics are no parameters.
        measure_squares: also reply with "loss-square": the mean over all steps of the squared loss per example.
        adversarial: weight of the loss on adversarial inputs, 0 to 1; 0 trains on clean ones only.
        adversarial_epsilon, adversarial_steps: see `models.adversary.Attack`.
        robust_mix: share of the noise norms when a part is evaluated (see `models.norms.dual_norm`).
    """

    local_epochs: int = 1
    batch_size: int = 10
    mixed_precision: bool = False
    threads: int = 1
    device: str = "auto"
    local_steps: int = 0
    measure_loss: bool = False
    measure_norm: bool = False
    measure_squares: bool = False
    adversarial: float = 0.0
    adversarial_epsilon: float = 8 / 255
    adversarial_steps: int = 7
    robust_mix: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRequest:
    """What every request about a part of the network says.

    Attributes:
        round_number: 1-based server round.
        nonce: names this request; the reply repeats it.
        seed: seed of the run.
        network: the full network.
        plan: which part the client gets.
        sliced: whether the state that came along is the part already (else the whole state).
        work: how to compute.
        clusters: how many states came along, in one vector (see `models.variants.cluster_states`); of several the
            device takes the one with the lowest loss on its training examples, and its reply says which as "cluster".
        shared: whether they share everything but the exits.
        path: whether they are the stages of one cluster, oldest first: the device takes the last one, and where it is
            asked to score says how the one does that half of its test examples prefers.
    """

    round_number: int
    nonce: str
    seed: int
    network: NetworkSpec
    plan: Plan
    sliced: bool = False
    work: Work = Work()
    clusters: int = 1
    shared: bool = False
    path: bool = False

    def to_config(self) -> dict[str, Scalar]:
        """Flat settings for a ConfigRecord."""
        return {
            "version": VERSION,
            "round": self.round_number,
            "nonce": self.nonce,
            "seed": self.seed,
            "network": self.network.to_json(),
            "plan": self.plan.to_json(),
            "sliced": self.sliced,
            "work": json.dumps(asdict(self.work)),
            "clusters": self.clusters,
            "shared": self.shared,
            "path": self.path,
        }

    def to_record(self, state: ArrayRecord) -> RecordDict:
        """The request with its state, which many requests may share."""
        return RecordDict({"arrays": state, "config": ConfigRecord(dict(self.to_config()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest(PartRequest):
    """Train the part and reply with the difference.

    Attributes:
        objective: what to optimise.
        optimiser: how.
        codec: how to encode the difference: text of a `codecs.CodecSettings`.
        codec_base: what the server keeps of this device for the codec (see `codecs.Codec.base`).
        down: how the state was encoded, if it is a difference against an earlier one; "" where it always comes whole.
        down_base: checksum of the state that it adds to; 0 if it came whole this time.
        checkpoint: newest round that the server can resume from; a device may forget what only earlier rounds needed.
        counted: round of this device's last reply that counted; what it wrote to its memory since then never was.
        dynamic_alpha: strength of FedDyn's regulariser; 0 is none.
    """

    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser(0.01)
    codec: str = "float32"
    codec_base: int = 0
    down: str = ""
    down_base: int = 0
    checkpoint: int = 0
    counted: int = 0
    dynamic_alpha: float = 0.0

    def to_config(self) -> dict[str, Scalar]:
        """Flat settings for a ConfigRecord."""
        return PartRequest.to_config(self) | {
            "objective": json.dumps(asdict(self.objective)),
            "optimiser": json.dumps(asdict(self.optimiser)),
            "codec": self.codec,
            "codec-base": self.codec_base,
            "down": self.down,
            "down-base": self.down_base,
            "checkpoint": self.checkpoint,
            "counted": self.counted,
            "dynamic-alpha": self.dynamic_alpha,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRequest(PartRequest):
    """Score the part, or differentiate the score, on the device's own training examples.

    Attributes:
        objective: whose loss; terms beside the task's own are left out.
        batch: number of examples to draw for it; 0 takes all.
    """

    objective: str = "cross-entropy"
    batch: int = 0

    def to_config(self) -> dict[str, Scalar]:
        """Flat settings for a ConfigRecord."""
        return PartRequest.to_config(self) | {"objective": self.objective, "batch": self.batch}


def read_loss_request(content: RecordDict) -> tuple[LossRequest, Array]:
    """Read a request about losses (see `read_part_request`)."""
    part, state = read_part_request(content)
    try:
        config = _record(content, "config", ConfigRecord)
        common = {name: getattr(part, name) for name in PartRequest.__dataclass_fields__}
        return LossRequest(**common, objective=str(config["objective"]), batch=_int(config["batch"])), state
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"unreadable request: {error!r}") from error


def read_part_request(content: RecordDict) -> tuple[PartRequest, Array]:
    """Read what a server sent: the request and the flat state.

    Raises:
        WireError: another protocol version, or fields missing or unreadable.
    """
    try:
        config = _record(content, "config", ConfigRecord)
        if config["version"] != VERSION:
            raise WireError(f"the server speaks protocol {config['version']!r}, this client {VERSION}")
        request = PartRequest(
            round_number=_int(config["round"]),
            nonce=str(config["nonce"]),
            seed=_int(config["seed"]),
            network=NetworkSpec.from_json(str(config["network"])),
            plan=Plan.from_json(str(config["plan"])),
            sliced=bool(config["sliced"]),
            work=Work(**json.loads(str(config["work"]))),
            clusters=_int(config["clusters"]),
            shared=bool(config["shared"]),
            path=bool(config["path"]),
        )
        return request, _record(content, "arrays", ArrayRecord)[STATE]
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"unreadable request: {error!r}") from error


def read_train_request(content: RecordDict) -> tuple[TrainRequest, Array]:
    """Read a training request (see `read_part_request`)."""
    part, state = read_part_request(content)
    try:
        config = _record(content, "config", ConfigRecord)
        common = {name: getattr(part, name) for name in PartRequest.__dataclass_fields__}
        objective = Objective(**json.loads(str(config["objective"])))
        optimiser = Optimiser(**json.loads(str(config["optimiser"])))
        own: dict[str, Any] = {
            "codec": str(config["codec"]),
            "codec_base": _int(config["codec-base"]),
            "down": str(config["down"]),
            "down_base": _int(config["down-base"]),
            "checkpoint": _int(config["checkpoint"]),
            "counted": _int(config["counted"]),
            "dynamic_alpha": _number(config["dynamic-alpha"]),
        }
        return TrainRequest(**common, objective=objective, optimiser=optimiser, **own), state
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"unreadable request: {error!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a client says of itself when it is met.

    Attributes:
        node: stable id (partition id or registered name).
        examples: number of training examples.
        labels: labels that occur among them, ascending.
        tier: the tier it was told by its node config; "" leaves it to the server, "auto" to what it measured.
        figures: what it measured of itself, by the names in `protocol.profile`; {} if it was not to.
        codecs: names of those that it knows; () does not say, and is taken for all.
    """

    node: NodeId
    examples: int
    labels: tuple[int, ...] = ()
    tier: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    codecs: tuple[str, ...] = ()

    def to_record(self) -> RecordDict:
        """As records."""
        config = ConfigRecord({"version": VERSION, "node": self.node, "tier": self.tier, "labels": list(self.labels)})
        config["codecs"] = list(self.codecs)
        return RecordDict({"config": config, "metrics": MetricRecord({**self.figures, "num-examples": self.examples})})

    @staticmethod
    def from_record(content: RecordDict) -> Hello:
        """Read a hello.

        Raises:
            WireError: fields missing, of the wrong type, or no examples.
        """
        try:
            config, metrics = _record(content, "config", ConfigRecord), _record(content, "metrics", MetricRecord)
            node, labels = config["node"], config["labels"]
            if config["version"] != VERSION:
                raise WireError(f"the node speaks protocol {config['version']!r}, the server {VERSION}")
            # True is no id: it equals 1.
            if isinstance(node, bool) or not isinstance(node, int | str) or not isinstance(labels, list):
                raise WireError(f"node = {node!r}, labels = {labels!r}")
            figures = {key: _number(value) for key, value in metrics.items() if key != "num-examples"}
            if wrong := [key for key, value in figures.items() if not 0 <= value < inf]:
                raise WireError(f"{wrong[0]} = {figures[wrong[0]]}")
            tier, held = str(config["tier"]), tuple(_int(x) for x in labels)
            codecs = config.get("codecs", [])
            if not isinstance(codecs, list):
                raise WireError(f"codecs = {codecs!r}")
            hello = Hello(
                node=node,
                examples=_int(metrics["num-examples"]),
                labels=held,
                tier=tier,
                figures=figures,
                codecs=tuple(map(str, codecs)),
            )
        except (KeyError, TypeError) as error:
            raise WireError(f"unreadable hello: {error!r}") from None
        if hello.examples < 1:
            raise WireError(f"node {node!r} has {hello.examples} examples")
        return hello


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request: the array by its expected name, and the numbers.

    Attributes:
        nonce: the nonce of the request.
        array: the encoded vector; None where the request asked for numbers only.
        metrics: finite numbers by name.
    """

    nonce: str
    array: Array | None
    metrics: Mapping[str, float]

    def to_record(self, name: str = DIFFERENCE) -> RecordDict:
        """As records; `name` is what the array is called."""
        content = RecordDict({"config": ConfigRecord({"version": VERSION, "nonce": self.nonce})})
        content["metrics"] = MetricRecord(dict(self.metrics))
        if self.array is not None:
            content["arrays"] = ArrayRecord({name: self.array})
        return content

    @staticmethod
    def from_record(content: RecordDict, name: str | None = DIFFERENCE) -> Reply:
        """Read a reply that must hold exactly one array called `name` (None: no array).

        Raises:
            WireError: missing, additional or unreadable records.
        """
        expected = {"config", "metrics"} | ({"arrays"} if name is not None else set())
        if set(content) != expected:
            raise WireError(f"expected the records {sorted(expected)}, got {sorted(content)}")
        try:
            arrays = _record(content, "arrays", ArrayRecord) if name is not None else {}
            if set(arrays) != ({name} if name is not None else set()):
                raise WireError(f"expected the array {name!r}, got {sorted(arrays)[:5]}")
            config = _record(content, "config", ConfigRecord)
            if config["version"] != VERSION:
                raise WireError(f"the node speaks protocol {config['version']!r}, the server {VERSION}")
            nonce = config["nonce"]
            metrics = {key: _number(value) for key, value in _record(content, "metrics", MetricRecord).items()}
        except (KeyError, TypeError) as error:
            raise WireError(f"unreadable reply: {error!r}") from None
        for key, value in metrics.items():
            if not isfinite(value):
                raise WireError(f"{key} = {value}")
        return Reply(str(nonce), arrays[name] if name is not None else None, metrics)


def _record(content: RecordDict, name: str, kind: type[_Record]) -> _Record:
    """One record of a message.

    Not `content.array_records[name]`: flwr makes such a view at every access, as a reference cycle that keeps all of
    the message in memory until the garbage collector comes by, and that counts objects, not megabytes.
    """
    record = content[name]
    if not isinstance(record, kind):
        raise KeyError(name)
    return record


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise WireError(f"expected a whole number, got {value!r}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"expected a number, got {value!r}")
    return float(value)
