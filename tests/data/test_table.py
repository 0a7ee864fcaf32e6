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
        (lambda text: text.replace("0.5", "1e300"), {}, r"column dose, row 1: 1e\+300 is larger than a 32-bit float"),
        (lambda text: "61,0.5,1\n62,0.4,0\n", {}, r"t.csv: its first row is of numbers"),
        (lambda text: "", {}, r"t.csv: it has no rows"),
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


def _same(root: Path, text: str, encoding: str = "utf-8", name: str = "u.csv") -> bool:
    """Whether a file says what `t.csv`, which is beside it, says."""
    (root / name).write_bytes(text.encode(encoding))
    one, other = (load(_settings(root, f"csv:{file}", table_without="site")) for file in ("t.csv", name))
    equal = torch.equal(one.train_examples.values, other.train_examples.values)
    return equal and torch.equal(one.train_examples.labels, other.train_examples.labels)


def test_csv_as_spreadsheets_and_pandas_write_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(SMALL)
    rows = SMALL.splitlines()
    assert _same(tmp_path, SMALL, "utf-8-sig")
    assert _same(tmp_path, SMALL.replace("\n", "\r\n"), name="U.CSV")
    assert _same(tmp_path, SMALL.replace(",", "\t"))
    german = SMALL.replace(",", ";").replace(".", ",")
    assert _same(tmp_path, german)
    assert _same(tmp_path, german.replace("\n", ";\n"))  # and a separator at the end of every row
    indexed = "\n".join([f",{rows[0]}", *(f"{number},{row}" for number, row in enumerate(rows[1:]))])
    assert _same(tmp_path, indexed)


def test_classes_and_clients_are_texts_whatever_they_look_like(tmp_path: Path) -> None:
    """A number in one file and a text in another, identifiers of more digits than a float has, composed letters."""
    (tmp_path / "a.csv").write_text("x,who,y\n1,98765432109876543210987,1\n2,98765432109876543210988,TRUE\n")
    (tmp_path / "b.csv").write_text("x,who,y\n1,007,1.0\n2,7,true\n3,caf\u00e9,unknown\n4,cafe\u0301,unknown\n")
    settings = _settings(tmp_path, "csv:[ab].csv", table_clients="who", local_test_fraction=0)
    data = load(settings)
    assert input_facts(settings).classes == ("1", "True", "unknown")
    owners = torch.cat([part.owners for part in (data.train_examples, data.test_examples) if part.owners is not None])
    assert len(set(owners.tolist())) == 5


def test_the_column_that_is_predicted_is_the_same_in_every_file(tmp_path: Path) -> None:
    """The last one of the first file; another site, or a device, may have it elsewhere."""
    (tmp_path / "a.csv").write_text("age,dose,ill\n40,1,yes\n50,2,no\n60,2,no\n")
    (tmp_path / "b.csv").write_text("ill,dose,age\nyes,1,70\nno,2,80\nno,2,90\n")
    facts = input_facts(_settings(tmp_path, "csv:*.csv"))
    assert facts.classes == ("no", "yes")
    one = _settings(tmp_path, "csv:b.csv", partition="own")
    assert sorted(load(one, facts).train_examples.labels.tolist()) == [0, 0, 1]
    asked = [summarise(_settings(tmp_path, f"csv:{name}.csv", partition="own")) for name in "ab"]
    with pytest.raises(DataError, match="the last columns differ, age, ill: `table-target`"):
        facts_from(one, asked[0] + asked[1])


def test_a_server_that_has_rows_to_test_on_only(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(SMALL)
    assert summarise(_settings(tmp_path, "csv:test.csv", partition="own")).count("class") == 0


def test_a_place_is_no_test_part(tmp_path: Path) -> None:
    for name in ("testaccio", "rome", "test-rome", "validation"):
        (tmp_path / f"{name}.csv").write_text(SMALL)
    data = load(_settings(tmp_path, "csv:*.csv"))
    assert (len(data.train_examples), len(data.test_examples)) == (8, 4)


def test_types_of_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "word": pa.array(["a", None, "b"]).dictionary_encode(),
        "small": pa.array([1, None, 3], pa.int8()),
        "large": pa.array([2**53 + 1, 2**62, 2**63 - 1]),
        "exact": pa.array(["1.50", "2.25", "3.00"]).cast(pa.decimal128(5, 2)),
        "flag": pa.array([True, None, False]),
        "time": pa.array([0, 43_200, None], pa.time32("s")),
        "nothing": pa.nulls(3),
        "__index_level_0__": pa.array([7, 8, 9]),
        "y": pa.array([1.0, 2.0, 1.0]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    settings = _settings(tmp_path, "parquet:t.parquet")
    facts = input_facts(settings)
    assert facts.classes == ("1", "2")
    features = Columns.from_json(facts.details).features
    assert features[:5] == ["exact", "flag", "flag is missing", "large", "small"]
    assert features[5:] == ["small is missing", "time", "time is missing", "word = a", "word = b"]
    assert bool(load(settings).train.inputs.isfinite().all())
    parquet.write_table(pa.table({**columns, "small": pa.array([[1], [2], [3]])}), tmp_path / "u.parquet")
    with pytest.raises(DataError, match=r"u.parquet, column small: it holds list.*table-without"):
        load(_settings(tmp_path, "parquet:u.parquet"))


def test_a_constant_column_is_only_shifted(tmp_path: Path) -> None:
    """Sums of 0.1 and of a large number round: what they differ by is no deviation."""
    rows = "".join(f"0.1,1234567.8,{row},{row % 2}\n" for row in range(1000))
    (tmp_path / "t.csv").write_text(f"a,b,x,y\n{rows}")
    facts = input_facts(_settings(tmp_path))
    assert facts.std[:2] == (1.0, 1.0)
    assert facts.std[2] == pytest.approx(288.67, rel=0.01)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("crp,y\n1.5,a\n2,b\n<0.5,a\n3,b\n", "3 of 4 values are numbers, but row 3 has '<0.5'"),
        (
            'crp,y\n950,a\n,b\n"1,234",a\n960,b\n',
            "3 of 3 values are numbers, but not as they are read: row 1 has '950'",
        ),
        ("crp;y\n1,5;a\n2,5;b\n<0,5;a\n", "2 of 3 values are numbers, but row 3 has '<0,5'"),
        ("age;crp;y\n1,5;1,5;a\n2,5;2;b\n3;<0,5;a\n", "2 of 3 values are numbers, but row 3 has '<0,5'"),
    ],
    ids=["a bound", "thousands", "a comma", "a comma, read anew"],
)
def test_values_that_are_mostly_numbers_are_said(tmp_path: Path, said: list[str], text: str, told: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    load(_settings(tmp_path))
    assert f"t.csv, column crp: {told}: all are taken as categories" in "".join(said)


def test_what_is_missing_may_have_spaces_around_it(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "t.csv").write_text("age, dose, y\n39, NA, a\n40, 2.5, b\n")
    assert Columns.from_json(input_facts(_settings(tmp_path)).details).features == ["age", "dose", "dose is missing"]
    assert said == []


def test_a_comma_here_and_a_point_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\tb\ty\n12,345\t1.5\tu\n1,5\t2\tv\n")
    with pytest.raises(DataError, match=r"t.tsv: numbers have a comma in column a and a point in column b"):
        load(_settings(tmp_path, "csv:t.tsv"))
    (tmp_path / "t.tsv").write_text("a\tb\ty\n12,345\t1e5\tu\n1,5\t2\tv\n")
    assert Columns.from_json(input_facts(_settings(tmp_path, "csv:t.tsv")).details).features == ["a", "b"]


def test_another_encoding_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe,y\n1,a\n2,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t.csv: it is not UTF-8"):
        load(_settings(tmp_path))
    (tmp_path / "t.csv").write_bytes("size,where,y\n1,Köln,a\n2,Bonn,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t.csv: column where, row 1: it is not UTF-8"):
        load(_settings(tmp_path))


def test_texts_in_one_file_and_numbers_in_another_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("zip,y\n10115,a\n10117,b\n")
    (tmp_path / "b.csv").write_text("zip,y\nD-10115,a\nD-10117,b\n")
    with pytest.raises(DataError, match=r"column zip holds texts in b.csv and numbers in a.csv"):
        load(_settings(tmp_path, "csv:*.csv"))
