"""A tokenizer by the library `tokenizers`: given as its JSON file, or made of counts of words that were pooled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

from models.errors import SettingError
from models.networks.spec import PADDING

PAD, UNKNOWN = "[PAD]", "[UNK]"  # tokens 0 and 1, whatever the tokenizer
WORDS, BPE = "words", "bpe"
MOST_WORDS = 50_000  # the most frequent of a device
LONGEST_WORD = 100  # characters
SHIFT = 1  # what a tokenizer's tokens are moved by where all of them are classes: 0 is padding
FILE = "tokenizer.json"
MOST_BYTES = 2**26  # of it, with line breaks and all
_REPEATS = 1000  # how often the commonest word is shown to a trainer


def library() -> Any:
    """The library.

    Raises:
        SettingError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        allowed = "others without the library tokenizers: pip install 'flotilla[text]'"
        raise SettingError("dataset", "texts, next-token", allowed) from None
    return tokenizers


def word_counts(texts: Iterable[str]) -> dict[str, int]:
    """How often each word occurs; words are what the tokenizers made here see: lower case, apart from signs."""
    blank = _blank(WORDS)
    counts: Counter[str] = Counter()
    for text in texts:
        plain = blank.normalizer.normalize_str(text)
        counts.update(word for word, _ in blank.pre_tokenizer.pre_tokenize_str(plain) if len(word) <= LONGEST_WORD)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: counts[word] for word in ordered[:MOST_WORDS]}


def trained(kind: str, counts: Mapping[str, int], size: int) -> str:
    """A tokenizer of at most so many tokens, as JSON, from how often each word occurs.

    Args:
        kind: "words": the most frequent are tokens; "bpe": pieces of words are.
        counts: of words.
        size: padding and unknown among them.
    """
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    if kind == WORDS:
        tokenizer = _blank(kind, {token: number for number, token in enumerate([PAD, UNKNOWN, *ordered[: size - 2]])})
        return str(tokenizer.to_str())
    tokenizer, most = _blank(kind), max(counts.values(), default=1)

    def shown() -> Iterator[str]:
        for word in ordered:  # in proportion, and each at least once
            yield from repeat(word, max(1, counts[word] * _REPEATS // most))

    trainer = library().trainers.BpeTrainer(vocab_size=size, special_tokens=[PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(shown(), trainer)
    return str(tokenizer.to_str())


def checked(text: str) -> str:
    """A tokenizer's JSON as it is, if padding is its token 0.

    Raises:
        ValueError: it is none, or another token is 0.
    """
    tokenizer = made(text)
    if tokenizer.id_to_token(PADDING) not in (PAD, "<pad>", "[pad]"):
        raise ValueError(f"token 0 must be {PAD} or <pad>, which fills texts up")
    return text


def read_tokenizer(place: str, others: str, check: Callable[[str], str]) -> str:
    """A tokenizer's file, or that of a folder which transformers saved.

    Args:
        place: where it is.
        others: what `tokenizer` may be beside a file, as an error says it.
        check: returns the text, or raises ValueError with what is wrong with it.

    Raises:
        SettingError: (key tokenizer) it cannot be read, or is none.
    """
    file = Path(place).expanduser()
    file = file / FILE if file.is_dir() else file
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"at most {MOST_BYTES} bytes")
        return check(file.read_text(encoding="utf-8"))
    except SettingError:
        raise
    except (OSError, ValueError) as error:
        allowed = f"{others}a {FILE} of the library tokenizers ({' '.join(str(error).split())})"
        raise SettingError("tokenizer", place, allowed) from None


@lru_cache(maxsize=4)
def made(text: str) -> Any:
    """The tokenizer of a JSON text, which neither cuts texts off nor fills them up: whoever asks does.

    Raises:
        ValueError: it is none.
    """
    try:
        tokenizer = library().Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    except SettingError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"no tokenizer ({' '.join(str(error).split())[:200]})") from None


def numbered(text: str, texts: Sequence[str], length: int) -> list[list[int]]:
    """The tokens of texts, the first so many of each, filled up with padding; an empty text is one unknown token."""
    tokenizer = made(text)
    unknown = tokenizer.token_to_id(UNKNOWN)
    found = [encoded.ids[:length] for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    return [(ids or [1 if unknown is None else unknown]) + [PADDING] * (length - max(1, len(ids))) for ids in found]


def prompts(text: str, texts: Sequence[str], length: int) -> list[list[int]]:
    """The tokens of texts, each moved by `SHIFT`: the last so many of each, filled up with padding."""
    found = [encoded.ids[-length:] for encoded in made(text).encode_batch(list(texts), add_special_tokens=False)]
    return [[one + SHIFT for one in ids] + [PADDING] * (length - len(ids)) for ids in found]


def _blank(kind: str, vocabulary: Mapping[str, int] | None = None) -> Any:
    parts = library()
    model = (
        parts.models.WordLevel(dict(vocabulary or {UNKNOWN: 0}), unk_token=UNKNOWN)
        if kind == WORDS
        else parts.models.BPE(unk_token=UNKNOWN)
    )
    tokenizer = parts.Tokenizer(model)
    tokenizer.normalizer = parts.normalizers.Sequence([parts.normalizers.NFKC(), parts.normalizers.Lowercase()])
    tokenizer.pre_tokenizer = parts.pre_tokenizers.Whitespace()
    return tokenizer
