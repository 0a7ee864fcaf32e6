"""What a device keeps of a session between its stages: in Flower's state, in memory, and never in a file.

A session has one way to go: keys, shared, masked, gone. Each stage is answered once, so no two vectors ever leave under
one mask, and of nobody are both secrets shared out. A device that restarts in between has lost it, and drops out.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ConfigRecord, Context

from protocol import WireError
from protocol.records import from_config, to_config

_KEY = "secure-session"
KEYS, SHARED, MASKED = "keys", "shared", "masked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as far as it has come.

    Attributes:
        session: its name.
        stage: the last one that was answered.
        mask_secret, seal_secret: own private keys, as PEM.
        mask_public, seal_public: the public ones.
        position, threshold: see `SharesRequest`.
        mask_keys, seal_keys: of all members.
        seed: of the own mask, in hexadecimal digits.
        seed_share, secret_share: what this device keeps of its own secrets.
        senders: members that made shares.
        seed_shares, secret_shares: what they made for this device, in the same order.
    """

    session: str
    stage: str = KEYS
    mask_secret: str
    seal_secret: str
    mask_public: str
    seal_public: str
    position: int = 0
    threshold: int = 0
    mask_keys: tuple[str, ...] = ()
    seal_keys: tuple[str, ...] = ()
    seed: str = ""
    seed_share: str = ""
    secret_share: str = ""
    senders: tuple[int, ...] = ()
    seed_shares: tuple[str, ...] = ()
    secret_shares: tuple[str, ...] = ()

    def keep(self, context: Context) -> None:
        """Remember it in place of any other."""
        context.state[_KEY] = to_config(self)


def session_at(context: Context, name: str, stage: str) -> Session:
    """The session of this name, whose last stage must be this one.

    Raises:
        WireError: there is none: another one has begun, the device has restarted, or the stage is over.
    """
    record = context.state.get(_KEY)
    found = from_config(Session, record) if isinstance(record, ConfigRecord) else None
    if found is None or found.session != name or found.stage != stage:
        raise WireError("secure aggregation: no such session here, or not at this stage")
    return found


def forget(context: Context) -> None:
    """End the session."""
    context.state.pop(_KEY, None)
