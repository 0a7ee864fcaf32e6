"""The user's own texts: formats, errors that name a row, and one tokenizer for everybody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data import (
    DataError,
    DataSettings,
    InputFacts,
    Preprocess,
    Summary,
    facts_from,
    input_facts,
    load,
    node_data,
    summarise,
)
from data.labelled_texts import _csv as rows_of
from data.tokens import made
from models.errors import SettingError

ROWS = [
    ("What is the tallest mountain?", "place"),
    ("Who wrote Faust, and when?", "person"),
    ("Where do storks sleep?", "place"),
    ("Who sleeps?", "person"),
]


def _csv(root: Path, rows: list[tuple[str, str]], name: str = "train") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = ["label,text", *(f'{label},"{text}"' for text, label in rows)]
    (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return root


def _settings(root: Path, **more: object) -> DataSettings:
    told = {"dataset": "texts", "data_root": str(root), "sequence_length": 8, "vocabulary_size": 40}
    return DataSettings(**(told | more))  # type: ignore[arg-type]


def test_every_format_says_the_same(tmp_path: Path) -> None:
    files = {
        "train.tsv": "\n".join(["text\tlabel", *(f"{text}\t{label}" for text, label in ROWS)]),
        "train.jsonl": "\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS),
        "train.txt": "\n".join(f"{label} {text}" for text, label in ROWS),
    }
    expected = load(_settings(_csv(tmp_path / "csv", ROWS), partition="own")).train
    assert (len(expected), expected.labels.tolist()) == (4, [1, 0, 1, 0])
    for name, content in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
        found = load(_settings(tmp_path / name, partition="own")).train
        assert torch.equal(found.inputs, expected.inputs), name
        assert torch.equal(found.labels, expected.labels), name


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_the_vocabulary_of_devices_is_that_of_all_texts_together(tmp_path: Path, kind: str) -> None:
    devices = [
        _settings(_csv(tmp_path / part, rows), partition="own", tokenizer=kind)
        for part, rows in (("one", [ROWS[0], ROWS[2]]), ("two", [ROWS[1], ROWS[3]]))
    ]
    together = _settings(_csv(tmp_path / "all", ROWS), partition="own", tokenizer=kind)
    pooled = Summary()
    for device in devices:
        pooled = pooled + Summary.from_json(summarise(device).to_json())
    facts = InputFacts.from_json(facts_from(devices[0], pooled).to_json())
    assert facts == facts_from(together, summarise(together))
    assert facts.classes == ("person", "place")
    own = [node_data(device, number, facts) for number, device in enumerate(devices)]
    assert [data.labels for data in own] == [(1,), (0,)]
    inputs = Preprocess(facts)([text for text, _ in ROWS])
    assert sorted(inputs[[1, 3]].tolist()) == sorted([*own[1].train.inputs.tolist(), *own[1].test.inputs.tolist()])
    assert int(inputs.max()) < facts.vocabulary <= 40
    tokenizer = made(facts.details)
    assert tokenizer.id_to_token(0) == "[PAD]"
    if kind == "words":
        assert tokenizer.token_to_id("sleep") is not None
        assert tokenizer.token_to_id("nonsense") is None


def test_with_a_given_tokenizer_no_device_says_its_words(tmp_path: Path) -> None:
    root = _csv(tmp_path / "texts", ROWS)
    (tmp_path / "tokenizer.json").write_text(
        facts_from(_settings(root, partition="own"), summarise(_settings(root))).details
    )
    settings = _settings(root, partition="own", tokenizer=str(tmp_path / "tokenizer.json"))
    summary = summarise(settings)
    assert set(summary.counts) == {"class"}
    assert facts_from(settings, summary).details == (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SettingError, match="no tokenizer"):
        summarise(replace(settings, vocabulary_size=41))


WRONG = {
    "a column is missing": ("train.csv", "sentence,label\na,b\n", "text is not there"),
    "another separator": ("train.csv", "text;label\na;b\n", "but text;label"),
    "a row is short": ("train.csv", "text,label\na,b\nc\n", "(row 3)"),
    "a row is long": ("train.csv", "text,label\na, and more,b\n", "rows of 2 cells, as the first; it has 3 (row 2)"),
    "texts as labels": ("train.csv", f"label,text\n{'long ' * 50},b\n{'longer ' * 50},a\n", "one begins with 'long"),
    "a text without end": ("train.csv", f"text,label\na,b\n{'x' * (2**20 + 1)},a\n", "(row 3)"),
    "fields in a field": ("train.jsonl", '{"text": {"de": "a"}, "label": "b"}\n', "texts and whole numbers (row 1)"),
    "null": ("train.jsonl", '{"text": "a", "label": null}\n', "texts and whole numbers (row 1)"),
    "no text": ("train.txt", "place where?\nplace\n", "(row 2)"),
    "no object": ("train.jsonl", '{"text": "a", "label": "b"}\n[1]\n', "(row 2)"),
    "not UTF-8": ("train.txt", b"place \xff\xfe\n", "UTF-8"),
    "another layout": ("one.pdf", "", "train.* and test.*"),
}


@pytest.mark.parametrize(("name", "content", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_here_and_not_elsewhere(
    name: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        input_facts(_settings(tmp_path))
    assert said in str(caught.value)
    assert str(tmp_path) not in caught.value.told


def test_a_reader_that_ends_takes_no_length_from_another(tmp_path: Path) -> None:
    """The limit of a field is one for the process: a file is read to its end while another is open."""
    long = "word " * 40_000
    (tmp_path / "long.csv").write_text(f"text,label\nfirst,a\n{long},b\n")
    (tmp_path / "short.csv").write_text("text,label\nfirst,a\n")
    with (tmp_path / "short.csv").open(newline="") as short, (tmp_path / "long.csv").open(newline="") as other:
        before, rows = rows_of(short, ("text", "label")), rows_of(other, ("text", "label"))
        assert next(before)[1][0] == next(rows)[1][0] == "first"
        assert list(before) == []
        assert next(rows)[1][0] == long


def test_clients_by_a_column(tmp_path: Path) -> None:
    lines = ["text,label,who", *(f"word{n} more,{'ab'[n % 2]},{'xy'[n // 4]}" for n in range(8))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    (tmp_path / "test.csv").write_text("\n".join(lines[:3]))
    settings = _settings(tmp_path, text_columns="text, label, who", partition="natural", num_clients=2)
    facts = None
    counts = [
        len(node_data(settings, node, facts).train) + len(node_data(settings, node, facts).test) for node in (0, 1)
    ]
    assert counts == [4, 4]


def test_names_are_the_same_in_every_format_and_long_texts_are_read(tmp_path: Path) -> None:
    long = "word " * 40_000
    contents = {
        "a/Train.csv": f"text, label\n{long},1.0\nb, True \n",
        "b/train.jsonl": f'{{"text": "{long}", "label": 1}}\n{{"text": "b", "label": true}}\n',
        "c/train.txt": f"1 {long}\n\ntrue b\n",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
        assert summarise(_settings((tmp_path / name).parent, partition="own")).counts["class"] == {"1": 1, "True": 1}
