"""What a server asks of a device: a small common part, and an extension for each feature that a run uses.

Everything a device needs to know is in its request: which part of which network, what to optimise, how to reply. The
server's method never crosses the wire. A feature that a run does not use (clusters, FedDyn, adversarial training, a
compressed way down) is None here and absent there. How these records cross the wire is `protocol.records`' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TypeVar

from flwr.app import Array, ArrayRecord, RecordDict

from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol.arrays import WireError, bytes_of
from protocol.records import from_config, record_in, to_config
from protocol.secure.messages import SecureSum
from protocol.text import quoted

# Message types: flwr's categories with our actions.
HELLO, STATISTICS, TRAIN, EVALUATE = "query.hello", "query.statistics", "train.part", "evaluate.part"
FACTS, LOSSES, GRADIENTS = "query.facts", "query.losses", "query.gradients"
# Records of a request: our fields, and the flat state. A record "config" is the caller's of `start`, for clients of
# their own; nothing here reads it.
REQUEST, ARRAYS, STATE = "request", "arrays", "state"

Scalar = bool | int | float | str

# What a device can be asked for, whoever asks: least and most.
WORK_RANGES = {"local_epochs": (0, 10**6), "local_steps": (0, 10**9), "batch_size": (1, 10**9), "threads": (1, 2**12)}
_MOST_STATES = 2**12  # of clusters
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Optimiser:
    """Plain SGD, fresh every round.

    Attributes:
        learning_rate: step size of this round.
        momentum: heavy-ball factor; 0 is none.
        weight_decay: L2 factor added to the gradient.
        clip_norm: gradients are scaled down to this L2 norm; 0 is off.
        proximal: μ of the term μ/2·‖w - w_t‖² that holds weights near those that were received; 0 is none.
    """

    learning_rate: float
    momentum: float = 0.0
    _: KW_ONLY
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    proximal: float = 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What to optimise: a registered objective of the client and its settings."""

    name: str = "cross-entropy"
    settings: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What a training reply shall say beside its usual numbers.

    Attributes:
        initial_loss: "loss-before": the mean loss over all training examples of the part as received, in evaluation
            mode and without augmentation.
        norm: "norm": the L2 norm of the difference over all parameters together, before it is encoded. Running
            statistics are no parameters.
        squared_loss: "loss-square": the mean over all steps of the squared loss per example.
    """

    initial_loss: bool = False
    norm: bool = False
    squared_loss: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversarialTraining:
    """Training on adversarial inputs, and norms of their own for these.

    Attributes:
        weight: of the loss on adversarial inputs, 0 to 1; 0 trains on clean ones only.
        epsilon, steps: see `models.adversary.Attack`.
        noise_share: share of the noise norms when a part is evaluated (see `models.norms.dual_norm`).
    """

    weight: float
    epsilon: float = 8 / 255
    steps: int = 7
    noise_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How a client computes.

    Attributes:
        local_epochs: passes over the client's training examples.
        batch_size: examples a step.
        mixed_precision: forward and backward in bfloat16 where the device has instructions for it; else in float32.
        threads: intra-op threads of a CPU client; part of the result, since float sums depend on it.
        device: "auto", "cpu" or "cuda".
        local_steps: optimiser steps a round in place of epochs, over and over the shuffled examples; 0 is off.
        measure: what a training reply says beside its usual numbers.
        adversarial: training on adversarial inputs; None trains on clean ones only.
        train_as: "auto" or "loop" (see `protocol.training_way`).

    Raises:
        ValueError: more of it, or less, than a device can be asked for.
    """

    local_epochs: int = 1
    batch_size: int = 10
    mixed_precision: bool = False
    threads: int = 1
    device: str = "auto"
    local_steps: int = 0
    measure: Measurements = Measurements()
    adversarial: AdversarialTraining | None = None
    train_as: str = "auto"

    def __post_init__(self) -> None:
        for name, (least, most) in WORK_RANGES.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} = {value}: allowed is {least} to {most}")
        if self.device not in DEVICES:
            raise ValueError(f"device = {quoted(self.device)}: allowed is {', '.join(DEVICES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStates:
    """Several states in one vector (see `models.variants.cluster_states`).

    Of states to choose from the device takes the one with the lowest loss on its training examples, and its reply says
    which as "cluster".

    Attributes:
        count: how many states there are.
        shared: whether they share everything but the exits.
        path: whether they are the stages of one cluster, oldest first: the device takes the last one, and where it is
            asked to score says how the one does that half of its test examples prefers.
    """

    count: int = 1
    shared: bool = False
    path: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_STATES:
            raise ValueError(f"count = {self.count}: allowed is 1 to {_MOST_STATES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FedDyn:
    """FedDyn's regulariser (see `client_app.feddyn`); `alpha` is its strength, above 0."""

    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedState:
    """The state came as a difference against the one that this device got last.

    Attributes:
        codec: how it is encoded: text of a `codecs.CodecSettings`.
        base: checksum of the state that it adds to; 0 if it came whole this time, as float32.
    """

    codec: str
    base: int = 0


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
        clusters: what states came along; None is one.
        facts: of the task, a `data.InputFacts` as JSON; "" says none, and the device goes by its own data.
        metric: what a request to score asks for besides loss and accuracy; "" is nothing.
        counted: round of this device's last reply that counted; what it wrote to its state since then never was.
    """

    round_number: int
    nonce: str
    seed: int
    network: NetworkSpec
    plan: Plan
    sliced: bool = False
    work: Work = Work()
    clusters: ClusterStates | None = None
    facts: str = ""
    metric: str = ""
    counted: int = 0

    def to_record(self, state: ArrayRecord) -> RecordDict:
        """The request with its state, which many requests may share."""
        return RecordDict({ARRAYS: state, REQUEST: to_config(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest(PartRequest):
    """Train the part and reply with the difference.

    Attributes:
        objective: what to optimise.
        optimiser: how.
        codec: how to encode the difference: text of a `codecs.CodecSettings`.
        codec_base: what the server keeps of this device for the codec (see `codecs.Codec.base`).
        checkpoint: newest round that the server can resume from; a device may forget what only earlier rounds needed.
        compressed: how the state came, where it does not always come whole.
        dynamic_regulariser: FedDyn's regulariser; None is none.
        secure: how to mask the difference, so that only a sum of several can be read; None sends it as it is.
    """

    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser(0.01)
    codec: str = "float32"
    codec_base: int = 0
    checkpoint: int = 0
    compressed: CompressedState | None = None
    dynamic_regulariser: FedDyn | None = None
    secure: SecureSum | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRequest(PartRequest):
    """Score the part, or differentiate the score, on the device's own training examples.

    Attributes:
        objective: whose loss; terms beside the task's own are left out.
        batch: number of examples to draw for it; 0 takes all.
    """

    objective: str = "cross-entropy"
    batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseQuestion:
    """Which base a device has of a network that is frozen in part.

    Attributes:
        network: on the base that the run has.
        seed: of the run, from which the base is drawn where it comes from no file.
    """

    network: NetworkSpec
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloRequest:
    """Say who you are.

    Attributes:
        labels: whether to tell which labels occur.
        tokens: whether to tell which tokens occur.
        profile: what to measure, a `protocol.profile.ProfileRequest` as text; "" is nothing.
        facts: as in `PartRequest`.
        base: of which network the device is to say its base; None of none.
    """

    labels: bool = False
    tokens: bool = False
    profile: str = ""
    facts: str = ""
    base: BaseQuestion | None = None

    def to_record(self) -> RecordDict:
        """As records."""
        return RecordDict({REQUEST: to_config(self)})

    @staticmethod
    def from_record(content: RecordDict) -> HelloRequest:
        """Read it.

        Raises:
            WireError: as `read_request`.
        """
        return from_config(HelloRequest, record_in(content, REQUEST))


_Request = TypeVar("_Request", bound=PartRequest)


def read_request(kind: type[_Request], content: RecordDict) -> tuple[_Request, Array]:
    """Read what a server sent: a request of this kind, and the flat state.

    Raises:
        WireError: another protocol version, or fields that are unknown, missing or unreadable; one line.
    """
    try:
        request = from_config(kind, record_in(content, REQUEST))
        arrays = content.get(ARRAYS)
        if not isinstance(arrays, ArrayRecord) or STATE not in arrays:
            raise WireError(f"no array {STATE!r}")
    except WireError as error:
        raise WireError(f"unreadable request: {error}") from None
    return request, arrays[STATE]


def bytes_in(content: RecordDict) -> int:
    """Encoded bytes of the arrays of a request. Not through `content.array_records`: see `record_in`."""
    arrays = content[ARRAYS]
    return bytes_of(arrays) if isinstance(arrays, ArrayRecord) else 0
