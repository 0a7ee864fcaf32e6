"""The stages of secure aggregation as messages, beside the request to train and its reply.

    keys      a member makes two key pairs and says the public ones
    shares    it is told those of its group, and answers with shares of its secrets, encrypted for each of the others
    (train)   it is told the shares that the others made for it, trains, and replies with its difference under masks,
              or says whose shares it cannot read
    unmask    it is told whose masked reply came, and answers with its shares of what has to be taken off the sum

Everything is text and whole numbers: PEM keys, Fernet tokens, shares in hexadecimal digits. All of it is bounded here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import RecordDict

from protocol.arrays import WireError
from protocol.records import from_config, record_in, to_config
from protocol.secure.bounds import MOST_MEMBERS, MOST_OF_A_KEY, MOST_OF_A_SHARE, MOST_OF_A_TOKEN
from protocol.text import quoted

KEYS, SHARES, UNMASK = "query.secure_keys", "query.secure_shares", "query.secure_unmask"
RECORD = "secure"
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
T = TypeVar("T", bound="StageMessage")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMessage:
    """What all of them have.

    Attributes:
        nonce: names the request; the reply repeats it.
    """

    nonce: str

    def to_record(self) -> RecordDict:
        """As records."""
        return RecordDict({RECORD: to_config(self)})

    @classmethod
    def from_record(cls: type[T], content: RecordDict) -> T:
        """Read one.

        Raises:
            WireError: other records, or fields that are unknown, missing, unreadable or out of bounds.
        """
        if set(content) != {RECORD}:
            raise WireError(f"expected the record {RECORD!r}, got {quoted(sorted(content))}")
        return from_config(cls, record_in(content, RECORD))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysRequest(StageMessage):
    """Begin a session; `session` names it in all further stages."""

    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysReply(StageMessage):
    """A member's public keys, as PEM.

    Attributes:
        mask_key: agrees with another member's on the mask that the two have in common.
        seal_key: on the key by which shares are encrypted.
    """

    mask_key: str
    seal_key: str

    def __post_init__(self) -> None:
        _bound("a key", (self.mask_key, self.seal_key), MOST_OF_A_KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesRequest(StageMessage):
    """Share your secrets among these members.

    Attributes:
        session: see `KeysRequest`.
        position: the node's own among the members.
        threshold: so many shares open a secret.
        mask_keys, seal_keys: of all members.
    """

    session: str
    position: int
    threshold: int
    mask_keys: tuple[str, ...]
    seal_keys: tuple[str, ...]

    def __post_init__(self) -> None:
        _bound("a key", (*self.mask_keys, *self.seal_keys), MOST_OF_A_KEY)
        count = len(self.mask_keys)
        if len(self.seal_keys) != count or not 0 <= self.position < count <= MOST_MEMBERS:
            raise ValueError(f"position {self.position} among {count} members: allowed are 2 to {MOST_MEMBERS}")
        if not count // 2 < self.threshold <= count or self.threshold < 2:
            raise ValueError(f"threshold = {self.threshold}: allowed is more than half of {count} members")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesReply(StageMessage):
    """By position, the shares for each member, encrypted; nothing at the member's own."""

    envelopes: tuple[str, ...]

    def __post_init__(self) -> None:
        _few(self.envelopes)
        _bound("an envelope", self.envelopes, MOST_OF_A_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSum:
    """What a request to train says where its reply is to be masked.

    Attributes:
        session: see `KeysRequest`.
        senders: positions, ascending, of the members that made shares, the node's own among them.
        envelopes: what each of them encrypted for this node, in the same order.
        weight: the difference is multiplied by it before it is clipped; in (0, 1].
        share: likewise the loss and the accuracy.
        clip: coordinates are clipped to this.
    """

    session: str
    senders: tuple[int, ...]
    envelopes: tuple[str, ...]
    weight: float
    share: float
    clip: float

    def __post_init__(self) -> None:
        _ascending("senders", self.senders)
        _bound("an envelope", self.envelopes, MOST_OF_A_TOKEN)
        if len(self.envelopes) != len(self.senders):
            raise ValueError(f"{len(self.envelopes)} envelopes of {len(self.senders)} senders")
        if not (0 < self.weight <= 1 and 0 < self.share <= 1 and self.clip > 0):
            raise ValueError("weight and share must be in (0, 1], and clip positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRefusal(StageMessage):
    """What a member says in place of a masked difference.

    Attributes:
        unreadable: positions, ascending, of the senders whose shares for it cannot be read, one at least. When most of
            the others say it of one, the server believes it.
    """

    unreadable: tuple[int, ...]

    def __post_init__(self) -> None:
        _ascending("unreadable", self.unreadable)
        if not self.unreadable:
            raise ValueError("unreadable must name somebody")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskRequest(StageMessage):
    """Whose masked reply came: positions, ascending. Of the other senders the masks are to be found."""

    session: str
    survivors: tuple[int, ...]

    def __post_init__(self) -> None:
        _ascending("survivors", self.survivors)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskReply(StageMessage):
    """By sender, in their order: a share of its seed if its reply came, else of its private mask key; hexadecimal."""

    shares: tuple[str, ...]

    def __post_init__(self) -> None:
        _few(self.shares)
        _bound("a share", self.shares, MOST_OF_A_SHARE)
        if not all(_HEX.fullmatch(share) for share in self.shares):
            raise ValueError("a share is written in hexadecimal digits")


def _bound(what: str, texts: Sequence[str], most: int) -> None:
    if longest := max((len(text) for text in texts if len(text) > most), default=0):
        raise ValueError(f"{what} of {longest} characters: allowed are {most}")


def _few(items: Sequence[object]) -> None:
    if len(items) > MOST_MEMBERS:
        raise ValueError(f"{len(items)} members: allowed are {MOST_MEMBERS}")


def _ascending(what: str, positions: Sequence[int]) -> None:
    _few(positions)
    if list(positions) != sorted(set(positions)) or any(not 0 <= one < MOST_MEMBERS for one in positions):
        raise ValueError(f"{what} must be positions, ascending")
