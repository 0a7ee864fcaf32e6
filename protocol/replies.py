"""What a device answers: who it is, or one encoded vector and numbers.

Nothing of the plan comes back: the server decodes against what it remembers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from protocol.arrays import WireError
from protocol.records import from_config, record_in, to_config
from protocol.text import MOST_OF_A_PEER, escaped, quoted

# Records of a reply, and what its array is called.
CONFIG, METRICS, ARRAYS = "config", "metrics", "arrays"
DIFFERENCE, MOMENTS, GRADIENT = "difference", "moments", "gradient"

NodeId = int | str

_MOST_LABELS, _MOST_FIGURES, _MOST_CODECS = 2**20, 2**12, 2**8  # labels or tokens, … that a hello may name


def id_of_address(address: int) -> int:
    """The id of a node that has no other: flwr's node id without its highest bit, for which fields have no room.

    Source: flwr 1.41 draws node ids as eight unsigned random bytes; whole numbers of its records are signed.
    """
    return address % 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a client says of itself when it is met.

    Attributes:
        node: stable id (partition id or registered name); a name has 1 to 200 characters that can be printed and is no
            number, so that no two ids look alike.
        examples: number of training examples, at least 1.
        labels: labels that occur among them, ascending, each once.
        tokens: likewise the tokens of texts; () where it was not asked.
        tier: the tier it was told by its node config; "" leaves it to the server, "auto" to what it measured.
        figures: what it measured of itself, by the names in `protocol.profile`; {} if it was not to.
        codecs: names of those that it knows; () does not say, and is taken for all.
        base: digest of the base that it has, or "none"; "" where it was not asked.
    """

    node: NodeId
    examples: int
    labels: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    tier: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    codecs: tuple[str, ...] = ()
    base: str = ""

    def __post_init__(self) -> None:
        _check_id(self.node)
        if self.examples < 1:
            raise ValueError(f"node {quoted(self.node)} has {self.examples} examples")
        for what, numbers in (("labels", self.labels), ("tokens", self.tokens)):
            if list(numbers) != sorted(set(numbers)) or (numbers and numbers[0] < 0):
                raise ValueError(f"{what} {quoted(numbers)}: expected whole numbers from 0, ascending, each once")
        for what, count, most in (
            ("labels", len(self.labels), _MOST_LABELS),
            ("tokens", len(self.tokens), _MOST_LABELS),
            ("figures", len(self.figures), _MOST_FIGURES),
            ("codecs", len(self.codecs), _MOST_CODECS),
        ):
            if count > most:
                raise ValueError(f"{count} {what}: allowed are {most}")
        if any(len(name) > MOST_OF_A_PEER for name in (self.tier, *self.codecs, *self.figures)):
            raise ValueError(f"names of tiers, codecs and figures have at most {MOST_OF_A_PEER} characters")
        if negative := [name for name, value in self.figures.items() if not value >= 0]:
            raise ValueError(f"{escaped(negative[0])} = {self.figures[negative[0]]}")

    def to_record(self) -> RecordDict:
        """As records."""
        return RecordDict({CONFIG: to_config(self)})

    @staticmethod
    def from_record(content: RecordDict) -> Hello:
        """Read a hello.

        Raises:
            WireError: fields missing, unknown or of the wrong type, or no examples.
        """
        try:
            return from_config(Hello, record_in(content, CONFIG))
        except WireError as error:
            raise WireError(f"unreadable hello: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReply:
    """What a client says of its data before the facts of the task are decided.

    Attributes:
        node: as in `Hello`.
        summary: sums over its training examples, a `data.Summary` as JSON.
    """

    node: NodeId
    summary: str

    def __post_init__(self) -> None:
        _check_id(self.node)

    def to_record(self) -> RecordDict:
        """As records."""
        return RecordDict({CONFIG: to_config(self)})

    @staticmethod
    def from_record(content: RecordDict) -> DataReply:
        """Read it.

        Raises:
            WireError: fields missing, unknown or of the wrong type.
        """
        return from_config(DataReply, record_in(content, CONFIG))


def _check_id(node: NodeId) -> None:
    """See that an id is a number or a name that looks like no other id.

    Raises:
        ValueError: it does not.
    """
    if isinstance(node, str) and (not node or escaped(node) != node):
        raise ValueError(f"node {quoted(node)}: expected 1 to {MOST_OF_A_PEER} characters that can be printed")
    if isinstance(node, str) and node.strip().lstrip("+-").isdecimal():
        raise ValueError(f"node {quoted(node)}: a whole number is no name; it is said as a number")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    nonce: str


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
        content = RecordDict({CONFIG: to_config(_Answer(nonce=self.nonce)), METRICS: MetricRecord(dict(self.metrics))})
        if self.array is not None:
            arrays = content[ARRAYS] = ArrayRecord()
            arrays[name] = self.array  # as it is: flwr's constructor takes none that lies in a reply's room
        return content

    @staticmethod
    def from_record(content: RecordDict, name: str | None = DIFFERENCE) -> Reply:
        """Read a reply that must hold exactly one array called `name` (None: no array).

        Raises:
            WireError: missing, additional or unreadable records.
        """
        expected = {CONFIG, METRICS} | ({ARRAYS} if name is not None else set())
        if set(content) != expected:
            raise WireError(f"expected the records {sorted(expected)}, got {quoted(sorted(content))}")
        try:
            array = None if name is None else _array(content[ARRAYS], name)
            metrics = _numbers(content[METRICS])
            answer = from_config(_Answer, record_in(content, CONFIG))
        except WireError as error:
            raise WireError(f"unreadable reply: {error}") from None
        return Reply(answer.nonce, array, metrics)


def _finite(value: float) -> bool:
    """Whether a number, which may be a whole one of any size, is a finite one of 64 bits."""
    return -(2**63) <= value < 2**63 if isinstance(value, int) else isfinite(value)


def _array(record: object, name: str) -> Array:
    if not isinstance(record, ArrayRecord):
        raise WireError(f"expected arrays, got {type(record).__name__}")
    if list(record) != [name]:
        raise WireError(f"expected the array {name!r}, got {quoted(sorted(record))}")
    return record[name]


def _numbers(record: object) -> dict[str, float]:
    if not isinstance(record, MetricRecord):
        raise WireError(f"expected metrics, got {type(record).__name__}")
    if len(record) > _MOST_FIGURES or any(len(name) > MOST_OF_A_PEER for name in record):
        raise WireError(f"allowed are {_MOST_FIGURES} numbers, with names of at most {MOST_OF_A_PEER} characters")
    found = {}
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise WireError(f"{escaped(key)} = {quoted(value)}: expected a finite number")
        found[key] = float(value)
    return found
