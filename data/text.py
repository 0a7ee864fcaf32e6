"""Texts as numbers: a vocabulary of words and sequences of one length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.networks.spec import PADDING

# The first two numbers of every vocabulary: what fills a short sequence up (`PADDING`), and what it does not have.
UNKNOWN = PADDING + 1
RESERVED = UNKNOWN + 1


def vocabulary(sentences: Iterable[Sequence[str]]) -> dict[str, int]:
    """Number the words of training sentences from 2, most frequent first; words as frequent as each other by name."""
    counts = Counter(word for sentence in sentences for word in sentence)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ordered, RESERVED)}


def tokens(sentences: Sequence[Sequence[str]], numbers: dict[str, int], size: int, length: int) -> Tensor:
    """Write each sentence as one row of numbers, int32 [N, length].

    Args:
        sentences: words; what is beyond `length` is cut off, what is shorter is filled up with `PADDING`.
        numbers: word → its number.
        size: words with this number or a higher one are `UNKNOWN`, as are those that have none.
        length: tokens of a row.
    """
    rows = torch.full((len(sentences), length), PADDING, dtype=torch.int32)
    for row, sentence in enumerate(sentences):
        found = [numbers.get(word, UNKNOWN) for word in sentence[:length]]
        rows[row, : len(found)] = torch.tensor([n if n < size else UNKNOWN for n in found], dtype=torch.int32)
    return rows
