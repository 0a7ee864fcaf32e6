"""What is trained beside a frozen network: pairs of low-rank factors and the head, or the head alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

from models.algebra.axes import Dim, axes_along
from models.algebra.precisions import FLOAT32, PRECISIONS
from models.errors import SettingError

LINEAR, ATTENTION, CONVOLUTION = "linear", "attention", "convolution"
HEAD = "head"
LORA = "lora"  # Hu et al., LoRA (ICLR 2022)
MOST = 1024  # of a rank
PAIR, CORE, HEADS, SHARED_A = "pair", "core", "heads", "shared-a"
FORMS = (PAIR, CORE, HEADS, SHARED_A)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Which tensors are trained; all others of the network are its base.

    Trained are the head, which is what runs along the axis of the classes, and a pair of factors for every linear layer
    and convolution that is meant (`models.algebra.pairs`).

    Attributes:
        rank: R, of every pair; 0 trains the head alone.
        alpha: the pairs' product is multiplied by α/R.
        targets: which layers have a pair: "linear" is all linear ones, "attention" those whose outputs attention takes
            or that take its outputs, "convolution" all convolutions without groups, else patterns of names of axes,
            such as "hidden*": layers of both kinds that have one of these axes on either side; each must be some
            layer's.
        sketched: whether a part of rank r has α/r in front instead, so that a random part of the ranks counts as much,
            on average over draws, as all of them; then leading parts do not nest.
        merges: whether the weights that pairs stand beside are part of the state, held and sent, because products are
            added to them from time to time; else they are the base's.
        form: what of B·A is trained: "pair" is both factors, "core" a square matrix between two that nobody trains,
            "heads" the blocks on its diagonal (`models.adapters.cores`); with "shared-a" both factors are, and B is
            each device's own (`models.adapters.own`).
        seed: of the run, from which such factors are drawn.
        heads: number of such blocks; a divisor of R.
        dropout: probability that an input of A is left out while a device trains.
        precision: in which the base's linear layers are held, unless a plan says otherwise.
        cut: whether parts have fewer units of the base's widths; ranks are then a group of axes of their own.
    """

    rank: int
    alpha: float = 16.0
    targets: tuple[str, ...] = (LINEAR,)
    sketched: bool = False
    merges: bool = False
    form: str = PAIR
    seed: int = 0
    heads: int = 0
    dropout: float = 0.0
    precision: str = FLOAT32
    cut: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= MOST:
            raise ValueError(f"rank = {self.rank}: allowed is 0 to {MOST}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha = {self.alpha}: allowed is more than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}: allowed is 0 to less than 1")
        if type(self.seed) is not int:
            raise ValueError(f"seed = {str(self.seed)[:40]!r}: allowed are whole numbers")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision = {str(self.precision)[:40]!r}: allowed is {', '.join(PRECISIONS)}")
        if self.form not in FORMS:
            raise ValueError(f"form = {str(self.form)[:40]!r}: allowed is {', '.join(FORMS)}")
        if type(self.heads) is not int or (self.form == HEADS) != (1 <= self.heads <= self.rank):
            raise ValueError(f"heads = {str(self.heads)[:40]!r}: allowed is 1 to {self.rank} of the form {HEADS}")
        if self.heads and self.rank % self.heads:
            raise ValueError(f"heads = {self.heads}: allowed are divisors of {self.rank}")

    def fields(self) -> dict[str, object]:
        """As JSON has it; what only some adapters have is absent where it is not used."""
        fields = asdict(self)
        for name in ("merges", "dropout", "cut"):
            if not fields[name]:
                del fields[name]
        if self.precision == FLOAT32:
            del fields["precision"]
        if self.form == PAIR:
            del fields["form"]
        if self.form in (PAIR, SHARED_A):
            del fields["seed"]
        if self.form != HEADS:
            del fields["heads"]
        return fields

    @property
    def factor(self) -> float:
        """α/R."""
        return self.alpha / self.rank

    def factor_of(self, rank: int) -> float:
        """What stands in front of the pairs of a part of this rank."""
        return self.alpha / (rank if self.sketched else self.rank)

    def naming(self, dims: Iterable[Dim], *, attention: bool = False, convolution: bool = False) -> tuple[str, ...]:
        """The targets that a layer is one of; it is to have a pair where there are some.

        Args:
            dims: of its weight.
            attention: whether it is part of an attention.
            convolution: whether it is one; else it is linear.
        """
        along = axes_along(dims)
        words = {CONVOLUTION} if convolution else {LINEAR, ATTENTION} if attention else {LINEAR}
        named = (one for one in self.targets if one in words or any(fnmatchcase(axis, one) for axis in along))
        return tuple(named)


def read_adapter(
    text: str, alpha: float, targets: str, dropout: float = 0.0, *, precision: str = FLOAT32, cut: bool = False
) -> Adapter | None:
    """Read "lora:16" or "head"; "" is None.

    Raises:
        SettingError: (keys adapter, adapter-targets, adapter-dropout, base-precision) anything else.
    """
    if not text and precision != FLOAT32:
        raise SettingError("base-precision", precision, f'{FLOAT32} without an adapter, such as adapter = "lora:16"')
    if dropout and text in ("", HEAD):
        raise SettingError("adapter-dropout", dropout, '0 without pairs of factors, such as adapter = "lora:16"')
    if not text:
        return None
    kind, _, number = text.partition(":")
    rank = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0
    if text != HEAD and (kind != LORA or not 1 <= rank <= MOST):
        raise SettingError("adapter", text, f'"", "head", or "lora:" and a rank of 1 to {MOST}, such as "lora:16"')
    wanted = tuple(part.strip() for part in targets.split(",") if part.strip())
    if not wanted:
        raise SettingError(
            "adapter-targets", targets, 'linear, attention, convolution, or names of axes, such as "hidden*"'
        )
    return Adapter(rank=rank, alpha=alpha, targets=wanted, dropout=dropout, precision=precision, cut=cut)
