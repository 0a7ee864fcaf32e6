"""Facts that most devices agree on: what one of them says decides neither whether there is a task nor what it is.

Sums add, so one that is far too large, has another form, or fits none of the others' would be in everybody's facts, or
leave none. Whose form is not that of most is left out; then whoever decides alone, which is seen by doing without: the
others' sums make a task, or values ten times smaller or larger, or a tenth of the classes or features. With fewer than
three devices nobody can say which of them is odd, and all count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import hypot

from data.columns import Columns
from data.input_facts import InputFacts
from data.summary import Summary

LEAST = 3  # devices
MOST_TIMES = 10.0  # what the others come to: the root mean square of a channel, the number of classes
_FEW = 1000  # classes or features that one device may bring
_FORM = ("shape", "target")  # counts whose names say what an example is, and not which examples there are

Make = Callable[[Summary], InputFacts]


def agreed(said: Sequence[Summary], make: Make) -> tuple[InputFacts, dict[int, str]]:
    """The facts of what devices said, and who is left out.

    Args:
        said: at least one.
        make: facts of what was pooled, or an error that says why they make no task.

    Returns:
        The facts, and position → why it does not count.

    Raises:
        ValueError: those that count do not make a task.
    """
    out = _of_another_form(said)
    while True:
        left = [i for i in range(len(said)) if i not in out]
        facts = _made([said[i] for i in left], make)
        if len(left) >= LEAST and (odd := _deciding([said[i] for i in left], facts, make)):
            out[left[odd[0]]] = odd[1]
        elif isinstance(facts, InputFacts):
            return facts, out
        else:
            raise ValueError(str(facts)) from None


def _of_another_form(said: Sequence[Summary]) -> dict[int, str]:
    """Those whose sums cannot be added to most of the others'."""
    forms = [
        (
            tuple(sorted((what, len(numbers)) for what, numbers in one.sums.items())),
            tuple(tuple(sorted(one.counts.get(what, ()))) for what in _FORM),
        )
        for one in said
    ]
    usual, count = Counter(forms).most_common(1)[0]
    if len(said) < LEAST or 2 * count <= len(said):
        return {}
    return {i: "its examples have another form than most" for i, form in enumerate(forms) if form != usual}


def _deciding(said: Sequence[Summary], facts: InputFacts | ValueError, make: Make) -> tuple[int, str] | None:
    """The one without whom the facts are others, or there are some; None if there is none, or more than one."""
    if isinstance(facts, InputFacts) and not facts.mean and len(facts.classes) <= _FEW:
        return None  # nothing here grows with what one says
    found = []
    for i, rest in enumerate(_without_each(said)):
        others = ValueError() if rest is None else _made([rest], make)
        if isinstance(others, InputFacts) and (why := _odd(facts, others)):
            found.append((i, *why))
    if isinstance(facts, ValueError):  # any two of unlike ones may be right
        return found[0][:2] if len(found) == 1 else None
    return max(found, key=lambda one: one[2])[:2] if found else None


def _odd(facts: InputFacts | ValueError, others: InputFacts) -> tuple[str, float] | None:
    """Why facts are not those of all but one, and how many times more they are; None if they are as good as those."""
    if isinstance(facts, ValueError):
        return f"with it there is no task ({facts})", 1.0
    for what, all_of, less in (
        ("classes", len(facts.classes), len(others.classes)),
        ("features", len(facts.mean), len(others.mean)),
    ):
        if _FEW < all_of > MOST_TIMES * less:
            return f"with it there are {all_of / less:.3g} times as many {what}", all_of / less
    mine, theirs = _measured(facts), _measured(others)
    times = max((_apart(*mine[name], *theirs[name]) for name in mine.keys() & theirs.keys()), default=0.0)
    return (f"with it values are {times:.3g} times as large, or as small", times) if times > MOST_TIMES else None


def _measured(facts: InputFacts) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each channel, of a table of each column of numbers, by its name.

    Features of 0 or 1 are not measured: a category or a missing value may well be rare in all places but one.
    """
    each = list(zip(facts.mean, facts.std, strict=True))
    if not facts.details.startswith('{"columns"'):
        return {str(place): one for place, one in enumerate(each)}
    return {name: each[place] for name, place in Columns.from_json(facts.details).numbers.items()}


def _apart(mean: float, deviation: float, others_mean: float, others_deviation: float) -> float:
    """By how many times the root mean square of a channel differs; that of a constant one has no measure from below.

    A deviation becomes ten times smaller only where one brings a hundred times what all others have.
    """
    times = hypot(mean, deviation) / hypot(others_mean, others_deviation)
    return times if others_deviation == 1 else max(times, 1 / times, others_deviation / deviation)


def _made(said: Sequence[Summary], make: Make) -> InputFacts | ValueError:
    pooled = list(_running(said))[-1]
    if pooled is None:
        return ValueError("what they say cannot be added")
    try:
        return make(pooled)
    except Exception as error:  # whatever a device said
        return error if isinstance(error, ValueError) else ValueError(type(error).__name__)


def _running(said: Sequence[Summary]) -> list[Summary | None]:
    """Sums of the first, of the first two, and so on; None from where they cannot be added."""

    def added(one: Summary | None, other: Summary | None) -> Summary | None:
        try:
            return None if one is None or other is None else one + other
        except ValueError:
            return None

    return list(accumulate(said, added))


def _without_each(said: Sequence[Summary]) -> list[Summary | None]:
    """Sums of all but each of them; at least two."""
    before: list[Summary | None] = [Summary(), *_running(said)[:-1]]
    after = [*_running(said[::-1])[:-1][::-1], Summary()]
    return [None if a is None or b is None else _running([a, b])[-1] for a, b in zip(before, after, strict=True)]
