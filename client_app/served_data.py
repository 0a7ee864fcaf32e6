"""What a device of somebody else's has: its data as functions of the context, looked at before they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Context
from torch import Tensor

from data import Split
from data.given import examples_of
from protocol import WireError

Data = Callable[[Context], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedData:
    """Somebody else's data, as `serve` is given them."""

    data: Data | None
    test_data: Data | None
    count: Callable[[Context], int] | None
    known_labels: Callable[[Context], tuple[int, ...]] | None

    def split(self, context: Context) -> Split | None:
        """Its training examples, as far as it shows them.

        Raises:
            WireError: what it shows are no examples; says what is allowed.
        """
        return None if self.data is None else _split("data", self.data(context))

    def examples(self, context: Context) -> Split:
        """Its training examples.

        Raises:
            WireError: it does not show them, or what it shows are no examples.
        """
        if (found := self.split(context)) is None:
            raise WireError("this ClientApp does not answer that: serve(…, data=…) does")
        return found

    def held_out(self, context: Context) -> Split:
        """The examples of its own test.

        Raises:
            WireError: it has none, or what it shows are no examples.
        """
        if self.test_data is None:
            raise WireError("this ClientApp has nothing to evaluate on: serve(…, test_data=…)")
        return _split("test_data", self.test_data(context))

    def labels(self, context: Context) -> tuple[int, ...]:
        """The labels that it has, ascending; all outputs where a label is no class; () if it does not tell."""
        if self.known_labels is not None:
            return tuple(sorted({int(label) for label in self.known_labels(context)}))
        found = self.split(context)
        if found is not None and found.labels.is_floating_point():
            return tuple(range(found.labels.shape[1]))
        return () if found is None else tuple(sorted(set(found.labels.tolist())))

    def size(self, context: Context) -> int:
        """Number of training examples."""
        return int(self.count(context)) if self.count is not None else len(self.examples(context))


def _split(name: str, given: object) -> Split:
    """What one of the functions gave.

    Raises:
        WireError: names it, and says what is allowed.
    """
    if isinstance(given, Split):
        given = (given.held, given.labels)
    try:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"two tensors, inputs and labels; it gives {_kind(given)}")
        inputs, labels = examples_of(*given)
        if not len(labels):
            raise ValueError("at least one example; it gives none")
    except ValueError as error:
        raise WireError(f"serve(…, {name}=…): allowed is {error}") from None
    return Split(inputs, labels)


def _kind(given: object) -> str:
    return f"{len(given)} things" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
