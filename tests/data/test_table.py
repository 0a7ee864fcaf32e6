"""Tables: types found, missing values, categories, the same features pooled over devices; errors name file and row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data import (
    DataError,
    DataSettings,
    InputFacts,
    Preprocess,
    UnusableInput,
    facts_from,
    input_facts,
    inspect,
    load,
    node_data,
    shards,
    summarise,
)
from data.columns import Columns
from tests.tables import write_tables

SMALL = """age,dose,ward,site,outcome
61,0.5,day,a,ill
?,1.5,night,b,well
35,,day,a,well
49,2.5,,b,ill
"""


def _settings(root: Path, name: str = "csv:t.csv", **more: object) -> DataSettings:
    return DataSettings(dataset=name, data_root=str(root), **more)  # type: ignore[arg-type]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(SMALL)
    (tmp_path / "test.csv").write_text(SMALL.replace("night", "dawn"))
    return tmp_path


def test_numbers_categories_and_missing_values_become_features(small: Path) -> None:
    settings = _settings(small, "csv:*.csv", table_clients="site", partition="natural", num_clients=2)
    assert inspect(settings).input_shape == (6,)
    data = load(settings)
    columns = Columns.from_json(input_facts(settings).details)
    assert columns.features == ["age", "age is missing", "dose", "dose is missing", "ward = day", "ward = night"]
    mean = (61 + 35 + 49) / 3
    expected = [[61, 0, 0.5, 0, 1, 0], [mean, 1, 1.5, 0, 0, 1], [35, 0, 1.5, 1, 1, 0], [49, 0, 2.5, 0, 0, 0]]
    np.testing.assert_allclose(data.train_examples.values.numpy(), expected, rtol=1e-6)
    assert data.test_examples.values[1].tolist()[4:] == [0, 0]  # nobody has trained on "dawn"
    assert data.train_examples.labels.tolist() == [0, 1, 1, 0]
    assert input_facts(settings).classes == ("ill", "well")
    np.testing.assert_allclose(data.train.inputs.mean(0), np.zeros(6), atol=1e-6)
    np.testing.assert_allclose(data.train.inputs.std(0, correction=0), np.ones(6), rtol=1e-5)
    assert [part.tolist() for part in shards(settings)] == [[0, 2], [1, 3]]


def test_a_file_a_client_and_the_column_that_is_asked_for(tmp_path: Path) -> None:
    for file in write_tables(tmp_path, "wine", sites=True):
        assert file.is_file()
    keys = {"partition": "natural", "num_clients": 4, "table_without": "site"}
    settings = _settings(tmp_path, "csv:wine-*.csv", **keys)
    assert sum(map(len, shards(settings))) == len(load(settings).train_examples)
    assert input_facts(settings).classes == ("class_0", "class_1", "class_2")
    ward = _settings(tmp_path, "csv:wine-*.csv", table_target="ward", table_without="site,outcome")
    assert input_facts(ward).classes == ("day", "night")


def test_parquet_is_the_same_table(small: Path) -> None:
    from pyarrow import csv, parquet

    options = csv.ConvertOptions(null_values=["?", ""], strings_can_be_null=True)
    parquet.write_table(csv.read_csv(small / "train.csv", convert_options=options), small / "train.parquet")
    both = [load(_settings(small, name)).train_examples for name in ("csv:train.csv", "parquet:train.parquet")]
    assert torch.equal(both[0].values, both[1].values)
    assert torch.equal(both[0].labels, both[1].labels)


def test_facts_pooled_over_devices_are_those_of_all_rows(tmp_path: Path) -> None:
    """Four sites with a file each, and a server without data; against one file of all their rows."""
    roots = []
    for file in write_tables(tmp_path, "cancer", sites=True):
        roots.append(tmp_path / file.stem)
        roots[-1].mkdir()
        file.rename(roots[-1] / "patients.csv")
    own = [_settings(root, "csv:patients.csv", partition="own", table_without="site") for root in roots]
    first, *others = (summarise(settings) for settings in own)
    pooled = facts_from(own[0], sum(others, first))
    everybody = tmp_path / "all"
    everybody.mkdir()
    texts = [(root / "patients.csv").read_text().splitlines() for root in roots]
    (everybody / "patients.csv").write_text("\n".join([texts[0][0], *(line for text in texts for line in text[1:])]))
    alone = facts_from(
        own[0], summarise(_settings(everybody, "csv:patients.csv", partition="own", table_without="site"))
    )
    assert pooled.classes == alone.classes == ("benign", "malignant")
    np.testing.assert_allclose(pooled.mean, alone.mean, rtol=1e-6)
    np.testing.assert_allclose(pooled.std, alone.std, rtol=1e-5)
    assert Columns.from_json(pooled.details).features == Columns.from_json(alone.details).features
    inputs = torch.cat([load(settings, pooled).train.inputs for settings in own])
    np.testing.assert_allclose(inputs.mean(0), np.zeros(inputs.shape[1]), atol=1e-4)
    np.testing.assert_allclose(inputs.std(0, correction=0), np.ones(inputs.shape[1]), rtol=1e-3)
    node = node_data(own[1], 1, pooled)
    assert len(node.train) + len(node.test) == len(texts[1]) - 1


def test_a_device_with_one_class_maps_it_by_name(small: Path) -> None:
    (small / "one").mkdir()
    (small / "one" / "t.csv").write_text("age,dose,ward,outcome\n40,1,day,well\n")
    facts = input_facts(_settings(small, "csv:train.csv", table_without="site"))
    settings = _settings(small / "one", partition="own")
    assert node_data(settings, 3, facts).labels == (1,)
    (small / "one" / "other.csv").write_text("age,dose,ward,outcome\n40,1,day,dead\n")
    with pytest.raises(DataError, match="does not know 'dead'") as caught:
        node_data(_settings(small / "one", "csv:other.csv", partition="own"), 3, facts)
    assert "dead" not in caught.value.told


def test_regression_and_several_labels(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,a,b\n1,10,0\n2,20,1\n3,30,1\n4,40,0\n5,50,1\n")
    data = load(_settings(tmp_path, task="regression", table_target="a"))
    targets = torch.cat([data.train_examples.labels, data.test_examples.labels])
    assert data.task.kind == "regression"
    assert targets.shape == (5, 1)
    assert float(targets.mean()) == pytest.approx(0, abs=1e-6)
    assert float(targets.std(correction=0)) == pytest.approx(1, rel=1e-6)
    labelled = load(_settings(tmp_path, task="multi-label", table_target="b"))
    assert set(labelled.train_examples.labels.flatten().tolist()) <= {0.0, 1.0}
    with pytest.raises(DataError, match=r"t.csv, row 1: a is 10, and 0 or 1 is wanted"):
        load(_settings(tmp_path, task="multi-label", table_target="a"))
    assert node_data(_settings(tmp_path, task="regression", table_target="a", num_clients=2), 0).labels == (0,)


@pytest.mark.parametrize(
    ("change", "keys", "said"),
    [
        (lambda text: text.replace("35,,day", "35,day"), {}, r"t.csv: CSV parse error.*Row #4.*"),
        (lambda text: text.replace("0.5", "inf"), {}, r"t.csv, column dose, row 1: inf is not finite"),
        (lambda text: text.replace("a,well", "a,"), {}, r"t.csv, row 3: it has no outcome"),
        (lambda text: text, {"table_target": "survived"}, r"t.csv: it has no column survived"),
        (lambda text: text, {"table_clients": "clinic"}, r"t.csv: it has no column clinic"),
        (lambda text: text.splitlines()[0] + "\n", {}, r"t.csv: it has no rows"),
        (lambda text: text.replace("dose", "age"), {}, r"two columns are called age"),
        (lambda text: text, {"table_without": "age,dose,ward,site"}, r"no column beside the target"),
        (lambda text: text, {"dataset": "csv:other.csv"}, r"no file that ends with .csv"),
        (lambda text: text, {"dataset": "csv:../t.csv"}, r"below data-root"),
        (lambda text: text, {"dataset": "csv:/etc/passwd"}, r"below data-root"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[str], str], keys: dict[str, str], said: str) -> None:
    (tmp_path / "t.csv").write_text(change(SMALL))
    with pytest.raises(DataError, match=said):
        load(_settings(tmp_path, keys.pop("dataset", "csv:t.csv"), **keys))


def test_a_number_where_a_device_has_texts_is_named_with_its_row(small: Path) -> None:
    facts = input_facts(_settings(small, "csv:train.csv", table_without="site"))
    (small / "one").mkdir()
    (small / "one" / "t.csv").write_text("age,dose,ward,outcome\n40,1,day,well\nold,1,day,well\n")
    with pytest.raises(DataError, match=r"t.csv, column age, row 2: 'old' is no finite number"):
        node_data(_settings(small / "one", partition="own"), 0, facts)


def test_new_rows_are_read_by_the_names_of_their_columns(small: Path) -> None:
    settings = _settings(small, "csv:train.csv", table_without="site")
    facts = input_facts(settings)
    (small / "new.csv").write_text("ward,comment,age,dose\nday,?,61,0.5\nnight,fine,?,1.5\n")
    preprocess = Preprocess(InputFacts.from_json(facts.to_json()))
    whole = load(settings, facts)
    rows = torch.cat([whole.train_examples.values, whole.test_examples.values])
    place = [int((rows[:, 0] == 61).nonzero()), int((rows[:, 1] == 1).nonzero())]
    expected = (rows[place] - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    torch.testing.assert_close(preprocess(small / "new.csv"), expected)
    (small / "new.csv").write_text("ward,age\nday,61\n")
    with pytest.raises(UnusableInput, match="no column dose"):
        preprocess(small / "new.csv")
