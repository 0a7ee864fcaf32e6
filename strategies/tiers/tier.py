"""Tiers: how much of the network a device can carry, and who is in which tier."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from models.algebra.groups import RANK
from models.algebra.precisions import PRECISIONS
from models.algebra.rates import Rate, exact_rate, groups_in, met, read_rate, read_share, single
from models.errors import SettingError
from models.randomness import generator
from protocol import NodeId
from protocol.profile import AUTO

ALLOWED_TIERS = 'a list such as "a:1, b:1/2, c:1/4", "a:1@4, b:1@2" or "a:1, b:mlp=1/4,heads=1/2"'
BASE = "base"  # all groups of an adapted network's base that a tier has no share of its own for
ASSIGNMENTS = ("fixed", "dynamic", "node", "measured")


@dataclass(frozen=True, slots=True)
class Tier:
    """A class of devices.

    Attributes:
        name: what node configs and tables call it.
        rate: share of the units of every width axis that it can carry, in (0, 1], or one for every group of axes;
            made of a number or a text as well.
        depth: number of stages that it can carry; None leaves that to the method.
        precision: in which it holds the linear layers of an adapted network's base; "" as the run says.
    """

    name: str
    rate: Rate
    depth: int | None = None
    _: KW_ONLY
    precision: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", exact_rate("rate", self.rate))

    def __str__(self) -> str:
        depth = "" if self.depth is None else f"@{self.depth}"
        return f"{self.name}:{self.rate}{depth} {self.precision}".rstrip()


HALVING = tuple(Tier(name, Fraction(1, 2**i)) for i, name in enumerate("abcde"))


def parse_tiers(text: str, key: str = "tiers", *, based: bool = False) -> tuple[Tier, ...]:
    """Read "a:1, b:1/2, c:1/4" (or "1, 1/2, 1/4": names are then a, b, c). The widest comes first in the result.

    "b:1/2@3" says that tier b carries three stages as well; without it the method spreads the depths over the tiers.
    "c:mlp=1/4,heads=1/2" has rates for groups of axes and keeps the rest whole, "c:1/2 mlp=1/4" half of the rest. Which
    of such tiers is wider only the network can tell: where there are some, the order stays. "c:1/2 int8" holds its base
    in that precision, where the network has one (`based`).

    Raises:
        SettingError: unreadable, a rate that is not in (0, 1], a depth below 1, or a name twice.
    """
    tiers = []
    for position, item in enumerate(items_of(text)):
        name, _, size = item.rpartition(":")
        precision = next((one for one in PRECISIONS if based and size.split()[-1:] == [one]), "")
        rate_text, _, depth_text = size.rstrip().removesuffix(precision).partition("@")
        try:
            if "=" in rate_text and not name:
                raise ValueError
            rate = read_rate(rate_text)
            depth = int(depth_text) if depth_text else None
        except ValueError as error:
            if "at most 1" in str(error):
                raise SettingError(key, text, f"rates above 0 and at most 1 ({item!r} is not)") from None
            raise SettingError(key, text, ALLOWED_TIERS) from None
        if depth is not None and depth < 1:
            raise SettingError(key, text, f"depths of at least 1 ({item!r} is not)")
        if not 0 < rate <= 1:
            allowed = f"rates above 0 and at most 1 ({item!r} is not); ranks are for runs with an adapter"
            raise SettingError(key, text, allowed)
        tiers.append(Tier(name.strip() or chr(ord("a") + position), rate, depth, precision=precision))
    # Words that results use for the whole network, and that node configs use for a tier that is to be measured.
    names = ["global", AUTO, *(tier.name for tier in tiers)]
    if len(set(names)) != len(names):
        raise SettingError(key, text, 'every name once, and none of them "global" or "auto"')
    if any(groups_in(tier.rate) for tier in tiers):
        return tuple(tiers)
    return tuple(sorted(tiers, key=lambda tier: (-single(tier.rate), -(tier.depth or 0))))


def items_of(text: str) -> list[str]:
    """One text a tier; commas between the rates of one are spaces in it."""
    items = list[str]()
    for part in (one.strip() for one in text.split(",")):
        if items and "=" in items[-1] and "=" in part and ":" not in part:
            items[-1] += f" {part}"
        else:
            items.append(part)
    return items


def common_tier(tiers: Sequence[Tier]) -> Tier:
    """The smallest tier, or of tiers that do not lie inside each other one that has what is common to their widths."""
    return replace(tiers[-1], rate=met([tier.rate for tier in tiers]))


def parse_ranks(text: str, full: int, key: str = "tiers") -> tuple[Tier, ...]:
    """Read "a:16, b:8, c:4 int8" (or "16, 8, 4 int8"): the ranks that tiers carry of an adapter's, as shares of it.

    "d:2 base=1/2" holds the first half of every width of the base, "d:2 mlp=1/2" of those of that group. Rates are then
    by group, and ranks are one.

    Args:
        text: as `parse_tiers` reads it, with ranks in place of rates.
        full: R of the adapter; 0 if it has no ranks, and then there is nothing that tiers could carry less of.
        key: its name in errors.

    Raises:
        SettingError: as `parse_tiers`, or a number that is no whole one of 1 to R.
    """
    if not full:
        return parse_tiers(text, key, based=True)
    parts, cuts = [], cuts_base(text)
    for item in items_of(text):
        name, colon, size = item.rpartition(":")
        words = re.sub(r"\s*=\s*", "=", size).split()
        precision = words.pop() if words and words[-1] in PRECISIONS else ""
        shares = [word for word in words if "=" in word]
        rank, at, depth = (part.strip() for part in " ".join(word for word in words if "=" not in word).partition("@"))
        if not (rank.isascii() and rank.isdigit() and len(rank) < 6 and 1 <= int(rank) <= full):
            allowed = f'ranks of 1 to {full}, such as "a:{full}, b:{-(-full // 2)}", where there is an adapter'
            raise SettingError(key, text, f"{allowed} ({item.strip()!r} is none)")
        share = str(Fraction(int(rank), full))
        if cuts:
            share = _on_base(shares, share, key, text)
        parts.append(f"{name}{colon}{share}{at}{depth} {precision}")
    return parse_tiers(",".join(parts), key, based=True)


def cuts_base(text: str) -> bool:
    """Whether some tier has a part of an adapted network's base: "d:2 base=1/2"."""
    return "=" in text


def _on_base(shares: Sequence[str], rank: str, key: str, text: str) -> str:
    """A rate that keeps shares of the base's groups of axes, such as "base=1/2" of all others, and a share of ranks."""
    named = dict(share.partition("=")[::2] for share in shares)
    if len(named) < len(shares) or RANK in named:
        raise SettingError(key, text, 'every group of the base\'s axes once, such as "a:16, b:4 base=1/2"')
    rest = named.pop(BASE, "1")
    return " ".join([rest, f"{RANK}={rank}", *(f"{group}={share}" for group, share in named.items())])


def parse_proportions(text: str, tiers: Sequence[Tier], key: str = "tier-proportions") -> tuple[Fraction, ...]:
    """Read one non-negative number per tier, in the order of `tiers`; "" is equal shares. The result sums to 1.

    Raises:
        SettingError: unreadable, negative, all zero, or not one per tier.
    """
    if not text.strip():
        return tuple(Fraction(1, len(tiers)) for _ in tiers)
    try:
        shares = [read_share(part.strip()) for part in text.split(",")]
    except ValueError:
        raise SettingError(key, text, 'numbers such as "1, 1, 2"') from None
    if len(shares) != len(tiers) or min(shares) < 0 or not sum(shares):
        raise SettingError(key, text, f"{len(tiers)} numbers (one per tier), none negative, not all 0")
    return tuple(share / sum(shares) for share in shares)


def depths_of(tiers: Sequence[Tier], depths: Collection[int]) -> dict[str, int]:
    """Depth of every tier, by name: its own, or else the depths of the network spread evenly over the tiers.

    Args:
        tiers: widest first.
        depths: at which the network can be cut.
    """
    known, count = sorted(depths), len(tiers)
    spread = [known[-(-len(known) * (count - i) // count) - 1] for i in range(count)]
    return {tier.name: tier.depth or even for tier, even in zip(tiers, spread, strict=True)}


class Assignment:
    """Says which tier a node is in.

    Args:
        kind: "fixed" draws once by proportion and keeps it; "dynamic" redraws every round (HeteroFL's default); "node"
            uses what the node told; "measured" what it measured, see `strategies.tiers.adaptive`.
        tiers: all tiers.
        proportions: share of the nodes in each, summing to 1.
        nodes: how many nodes the configuration expects; with "fixed" their tiers have exactly these proportions.
        seed: seed of the run.

    Attributes:
        lasting: whether a node keeps its tier from round to round.
    """

    def __init__(
        self, kind: str, tiers: Sequence[Tier], proportions: Sequence[Fraction], nodes: int, seed: int
    ) -> None:
        if kind not in ASSIGNMENTS:
            raise SettingError("tier-assignment", kind, ASSIGNMENTS)
        self._kind, self._tiers, self._seed = kind, tuple(tiers), seed
        self.lasting = kind != "dynamic"
        self._shares = np.array([float(share) for share in proportions])
        counts = apportion(proportions, nodes)
        order = generator(seed, 0, "server", "tiers").permutation(nodes)
        self._fixed = np.repeat(np.arange(len(self._tiers), dtype=np.int16), counts)[order]  # position by partition id
        self._by_name = {tier.name: tier for tier in tiers}

    def measures(self, told: str) -> bool:
        """Whether the tier of a node that told this one is to be found by what it measured."""
        return self._kind == "measured" or (self._kind == "node" and told == AUTO)

    def tier_of(self, node: NodeId, told: str, round_number: int) -> Tier:
        """The tier of a node in a round.

        Raises:
            SettingError: the node told a tier that does not exist, or none although it has to.
        """
        if self._kind == "node":
            if told not in self._by_name:
                raise SettingError("tier", told, [*self._by_name, AUTO])
            return self._by_name[told]
        return self._tiers[self._position(node, round_number)]

    def positions(self, nodes: Sequence[int], round_number: int) -> NDArray[np.intp] | None:
        """Position of each node's tier among all of them; None where it depends on what a node told."""
        if self._kind not in ("fixed", "dynamic"):
            return None
        if self._kind == "fixed" and len(nodes) and nodes[0] >= 0 and nodes[-1] < len(self._fixed):
            found: NDArray[np.intp] = self._fixed[np.asarray(nodes)].astype(np.intp)
            return found
        return np.array([self._position(node, round_number) for node in nodes], dtype=np.intp)

    def _position(self, node: NodeId, round_number: int) -> int:
        if self._kind == "fixed" and isinstance(node, int) and 0 <= node < len(self._fixed):
            return int(self._fixed[node])
        # A node that was not counted on draws for itself, so it changes nobody else's tier.
        draws = generator(self._seed, 0 if self._kind == "fixed" else round_number, node, "tier")
        return int(draws.choice(len(self._tiers), p=self._shares / self._shares.sum()))


def apportion(proportions: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers in the given proportions that sum to `total` (largest remainders; ties to the first)."""
    exact = [share * total for share in proportions]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
