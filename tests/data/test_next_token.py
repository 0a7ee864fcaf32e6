"""Windows of the user's own texts by a model's own tokenizer: numbers, what is tested, and whose a text is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from data import DataError, DataSettings, InputFacts, Preprocess, facts_from, input_facts, inspect, load, summarise
from data.sets import evaluated_on
from models.errors import SettingError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """One token a letter, 0 for "a"; no padding among them, as GPT-2's, and what else a file may ask for."""
    made = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(LETTERS)}, unk_token="z"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.enable_truncation(3)
    made.enable_padding(length=5, pad_id=25, pad_token="z")
    folder = tmp_path / "model"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def _settings(root: Path, tokenizer: Path, **more: Any) -> DataSettings:
    told: dict[str, Any] = {
        "dataset": "next-token",
        "data_root": str(root),
        "sequence_length": 8,
        "tokenizer": str(tokenizer),
    }
    return DataSettings(**(told | more))


def _write(root: Path, name: str, content: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_text(content)
    return root


def _text_of(row: torch.Tensor) -> str:
    return "".join(LETTERS[one - 1] for one in row.tolist() if one)


def test_a_window_is_what_stands_before_its_token(tmp_path: Path, tokenizer: Path) -> None:
    """Of a whole file as of rows; tokens are one more than the tokenizer's, and 0 is padding alone."""
    text = "".join(LETTERS[n * n % 25] for n in range(100))
    data = load(_settings(_write(tmp_path / "data", "corpus.txt", text), tokenizer))
    assert (data.task.classes, data.task.vocabulary, data.task.input_shape) == (26, 27, (8,))
    ends = [(data.train, range(8, 80, 2)), (data.test, range(80, 100, 2))]
    for split, places in ends:
        assert [_text_of(row) for row in split.inputs] == [text[end - 8 : end] for end in places]
        assert [LETTERS[label] for label in split.labels.tolist()] == [text[end] for end in places]
    assert int(data.train.inputs.min()) > 0


def test_a_short_text_is_one_example_and_one_of_a_token_none(tmp_path: Path, tokenizer: Path) -> None:
    rows = [{"text": "hello"}, {"text": "x"}, {"text": "ab"}]
    root = _write(tmp_path / "data", "train.jsonl", "\n".join(map(json.dumps, rows)))
    _write(root, "test.jsonl", json.dumps({"text": "abcdefghi"}))
    data = load(_settings(root, tokenizer))
    assert [_text_of(row) for row in data.train.inputs] == ["hell", "a"]
    assert data.train.inputs[0, 4:].eq(0).all()
    assert [LETTERS[label] for label in data.train.labels.tolist()] == ["o", "b"]
    assert [_text_of(row) for row in data.test.inputs] == ["abcdefgh"]


def test_whose_a_text_is(tmp_path: Path, tokenizer: Path) -> None:
    lines = ["who,text", *(f"{'nm'[n % 2]},{LETTERS[n : n + 20]}" for n in range(4))]
    root = _write(tmp_path / "data", "train.csv", "\n".join(lines))
    data = load(_settings(root, tokenizer, text_columns="text, none, who", partition="natural", num_clients=2))
    assert data.train_examples.owners is not None
    starts = {0: {"b", "d"}, 1: {"a", "c"}}  # m's texts begin with b and d
    owners = data.train_examples.owners.tolist()
    first: dict[int, set[str]] = {}
    for owner, row in zip(owners, data.train_examples.values, strict=True):
        first.setdefault(owner, set()).add(_text_of(row)[0])
    assert all(starts[owner] <= first[owner] for owner in starts)
    assert owners.count(0) == owners.count(1)


def test_devices_say_nothing_of_their_words_and_need_no_tokenizer(tmp_path: Path, tokenizer: Path) -> None:
    root = _write(tmp_path / "device", "train.txt", LETTERS * 3)
    device = _settings(root, tmp_path / "not there", partition="own")
    summary = summarise(device)
    assert summary.counts == {"class": {"": 1}}
    assert not summary.sums
    server = _settings(tmp_path / "nothing", tokenizer, partition="own")
    assert inspect(server).classes == 26
    facts = InputFacts.from_json(facts_from(server, summary).to_json())
    data = load(device, facts)
    assert (len(data.train), len(data.test)) == (35, 0)
    assert len(evaluated_on(device, facts)) == 35
    assert input_facts(_settings(root, tokenizer)).details == facts.details


def test_a_prompt_is_read_to_its_end(tmp_path: Path, tokenizer: Path) -> None:
    facts = input_facts(_settings(_write(tmp_path / "data", "train.txt", LETTERS * 3), tokenizer))
    inputs = Preprocess(facts)(["abcdefghijkl", "ab"])
    assert [_text_of(row) for row in inputs] == ["efghijkl", "ab"]
    assert inputs[1].tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert "add 1" in facts.steps()[0]


def test_texts_without_a_token_and_tokens_without_a_name(tmp_path: Path) -> None:
    """A tokenizer that knows no unknown token passes over what it does not know; numbers may be left out."""
    vocabulary = {"a": 0, "b": 1, "<3>": 2, "c": 4, "d" * 300: 5}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.save(str(tmp_path / "tokenizer.json"))
    rows = [{"text": "abcab"}, {"text": "zzz"}, {"text": "za"}]
    root = _write(tmp_path / "data", "train.jsonl", "\n".join(map(json.dumps, rows)))
    settings = _settings(root, tmp_path / "tokenizer.json", partition="own")
    data = load(settings)
    assert data.train.inputs.tolist() == [[1, 2, 5, 1, 0, 0, 0, 0]]
    assert data.train.labels.tolist() == [1]
    assert input_facts(settings).classes == ("a", "b", "<3>", "<3>>", "c", "d" * 100 + "<5>")


def test_a_text_that_the_tokenizer_refuses_is_the_devices_fault(tmp_path: Path) -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    root = _write(tmp_path / "data", "train.txt", "a b nowhere")
    with pytest.raises(DataError, match="texts that the tokenizer can divide") as caught:
        load(_settings(root, tmp_path / "tokenizer.json"))
    assert "nowhere" not in caught.value.told


WRONG = {
    "no tokenizer": ("train.txt", "abc", "words", "tokenizer"),
    "no file of one": ("train.txt", "abc", "/nowhere/tokenizer.json", "No such file"),
    "an empty text": ("train.txt", " \n", None, "a file with a text"),
    "an empty row": ("train.jsonl", '{"text": "ab"}\n{"text": " "}\n', None, "(row 2)"),
    "no such column": ("train.csv", "sentence\nabc\n", None, "text is not there"),
    "no text that goes on": ("train.txt", "a", None, "with examples of"),
}


@pytest.mark.parametrize(("name", "content", "told", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(
    tmp_path: Path, tokenizer: Path, name: str, content: str, told: str | None, said: str
) -> None:
    settings = _settings(_write(tmp_path / "data", name, content), Path(told or str(tokenizer)))
    with pytest.raises(SettingError) as caught:
        load(settings)
    assert said in str(caught.value)
    if isinstance(caught.value, DataError):
        assert str(tmp_path) not in caught.value.told
