"""Examples dealt out so that whatever can be met is met: no draw is repeated in the hope of a better one.

Flower's partitioners draw and then see whether everybody has something. These here construct: `data.schemes` turns to
them where a draw came to nothing, and for divisions that Flower's partitioners do not have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def most_clients(labels: Rows, wanted: int) -> int:
    """The greatest number of clients that can have `wanted` classes each: every holder of a class has an example of it.

    Args:
        labels: int64 [N].
        wanted: classes of a client, at most as many as there are.
    """
    counts = np.unique(labels, return_counts=True)[1]
    low, high = 0, len(labels)  # fits, may not; the condition holds up to some number and for none above it
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() >= middle * wanted else (low, middle - 1)
    return low


def deal_classes(labels: Rows, clients: int, wanted: int, draw: np.random.Generator) -> list[Rows]:
    """Give every client exactly `wanted` classes, every class to somebody, and each class in equal shares.

    Holders per class are as even as the classes' sizes allow. Class after class goes to those clients who lack most,
    in random order where they lack the same: the construction of Gale and Ryser, which never gets stuck.

    Args:
        labels: int64 [N].
        clients: at most `most_clients(labels, wanted)`.
        wanted: classes of a client, with clients · wanted at least the number of classes.
        draw: random numbers.
    """
    classes, counts = np.unique(labels, return_counts=True)
    holders = _holders(np.minimum(counts, clients), clients * wanted, draw)
    lacking = np.full(clients, wanted)
    parts: list[list[Rows]] = [[] for _ in range(clients)]
    for number in np.argsort(-holders, kind="stable"):
        order = draw.permutation(clients)
        chosen = order[np.argsort(-lacking[order], kind="stable")][: holders[number]]
        lacking[chosen] -= 1
        rows = np.flatnonzero(labels == classes[number])
        for client, share in zip(chosen, np.array_split(rows, len(chosen)), strict=True):
            parts[client].append(share)
    return [np.concatenate(shares) for shares in parts]


def _holders(most: Rows, places: int, draw: np.random.Generator) -> Rows:
    """Clients per class: at least 1, at most `most`, as even as can be, `places` in all."""
    level = 1
    while np.minimum(most, level + 1).sum() <= places:
        if level >= most.max():
            break
        level += 1
    holders = np.minimum(most, level)
    able = draw.permutation(np.flatnonzero(most > level))
    holders[able[: places - int(holders.sum())]] += 1
    return holders


def dirichlet(labels: Rows, clients: int, alpha: float, draw: np.random.Generator) -> list[Rows]:
    """Divide each class by proportions from Dirichlet(alpha), one draw; who is left without an example gets one."""
    parts: list[list[Rows]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        ends = np.rint(np.cumsum(draw.dirichlet(np.full(clients, alpha)))[:-1] * len(rows)).astype(np.int64)
        for part, share in zip(parts, np.split(rows, ends), strict=True):
            part.append(share)
    return nobody_empty([np.concatenate(shares) for shares in parts])


def balanced_dirichlet(labels: Rows, clients: int, alpha: float, draw: np.random.Generator) -> list[Rows]:
    """Give everybody equally many examples, give or take one, of classes in proportions from Dirichlet(alpha · prior).

    Hsu, Qi and Brown, arXiv 1909.06335: the prior is the classes' share of the whole. What a client wants of a class
    that has run out it takes of the others, by its proportions; if it wants none of what is left, by what is left.
    """
    classes, counts = np.unique(labels, return_counts=True)
    rows_of = [np.flatnonzero(labels == label) for label in classes]
    taken, parts = np.zeros_like(counts), []
    sizes = np.full(clients, len(labels) // clients)
    sizes[: len(labels) % clients] += 1
    for size in sizes:
        likes = draw.dirichlet(alpha * counts / counts.sum())
        have = np.zeros_like(counts)
        while (short := int(size - have.sum())) > 0:
            left = counts - taken - have
            wish = np.where(left > 0, likes, 0.0)
            wish = wish if wish.sum() > 0 else left.astype(np.float64)
            have += np.minimum(draw.multinomial(short, wish / wish.sum()), left)
        parts.append(np.concatenate([rows[a : a + n] for rows, a, n in zip(rows_of, taken, have, strict=True)]))
        taken += have
    return parts


def shards(labels: Rows, clients: int, each: int, draw: np.random.Generator) -> list[Rows]:
    """Cut the rows, sorted by label, into `clients` · `each` equal pieces and give everybody `each` of them."""
    pieces = np.array_split(np.argsort(labels, kind="stable"), clients * each)
    order = draw.permutation(len(pieces)).reshape(clients, each)
    return [np.concatenate([pieces[number] for number in numbers]) for numbers in order]


def quantities(labels: Rows, clients: int, alpha: float, draw: np.random.Generator) -> list[Rows]:
    """Cut shares whose sizes are proportions from Dirichlet(alpha): Li et al., arXiv 2102.02079, quantity skew."""
    return sized(len(labels), draw.dirichlet(np.full(clients, alpha)))


def sized(count: int, shares: NDArray[np.float64]) -> list[Rows]:
    """Cut rows 0 to count - 1 into parts of sizes in proportion to `shares`; who would have none gets one."""
    ends = np.rint(np.cumsum(shares / shares.sum())[:-1] * count).astype(np.int64)
    return nobody_empty(np.split(np.arange(count), ends))


def nobody_empty(parts: list[Rows]) -> list[Rows]:
    """Give everybody without an example one of whoever has most; there are as many examples as parts."""
    given = list(parts)
    sizes = np.array([len(part) for part in given])
    for empty in np.flatnonzero(sizes == 0):
        richest = int(sizes.argmax())
        given[empty], given[richest] = given[richest][-1:], given[richest][:-1]
        sizes[empty], sizes[richest] = 1, sizes[richest] - 1
    return given
