"""What secure aggregation can be told, by the names of the run config."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings import between, check, more_than, setting
from protocol.secure.bounds import MOST_MEMBERS

_ON = "secure-aggregation = true"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureOptions:
    """Whether the server learns sums only.

    Attributes:
        secure_aggregation: whether differences are masked.
        secure_threshold: fewest devices of a sum, and of those that open it.
        secure_clip: c to which each coordinate of a weighted difference is clipped on the device.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """

    secure_aggregation: bool = setting(
        False,
        "whether devices mask their differences, losses and accuracies, so that the server learns only the sum over"
        " those that train the same part; what it does without is refused at the start. See [privacy.md](privacy.md)",
    )
    secure_threshold: int = setting(
        3,
        "the fewest devices that a sum may be of; as many, and more than half of their group, have to stay until it is"
        " opened. `min-cover` must be as much at least",
        between(2, MOST_MEMBERS // 2),
        read_by=_ON,
    )
    secure_clip: float = setting(
        8.0,
        "a device clips every coordinate of its difference, as it weighs, to this much up and down; 2^22 levels lie"
        " between",
        more_than(0),
        read_by=_ON,
    )

    def __post_init__(self) -> None:
        """Check ranges."""
        check(self)
