"""Settings: defaults, types, ranges, and one line that names key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from data import AUGMENTATIONS, SCHEMES, SOURCES, DataSettings
from models.errors import SettingError


def test_defaults() -> None:
    settings = DataSettings.from_config({})
    assert settings == DataSettings()
    assert (settings.dataset, settings.partition, settings.num_clients, settings.seed) == ("digits", "iid", 20, 1)
    assert (settings.dirichlet_alpha, settings.labels_per_client, settings.image_size) == (0.5, 2, 32)
    assert (settings.augment, settings.local_test_fraction) == ("none", 0.1)


def test_reads_its_keys_and_ignores_others() -> None:
    settings = DataSettings.from_config({"num-clients": 7, "dirichlet-alpha": 1, "method": "heterofl", "seed": 0})
    assert settings.num_clients == 7
    assert settings.dirichlet_alpha == 1.0
    assert type(settings.dirichlet_alpha) is float


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "cifar"),
        ("dataset", 1),
        ("partition", "random"),
        ("num-clients", 0),
        ("num-clients", 20.0),
        ("num-clients", True),
        ("num-clients", "20"),
        ("dirichlet-alpha", 0.0),
        ("dirichlet-alpha", float("nan")),
        ("dirichlet-alpha", float("inf")),
        ("dirichlet-alpha", False),
        ("labels-per-client", 0),
        ("image-size", 0),
        ("sequence-length", -1),
        ("sequence-length", 4097),
        ("vocabulary-size", 2),
        ("vocabulary-size", 100_001),
        ("augment", False),
        ("augment", "crop"),
        ("local-test-fraction", 1.0),
        ("local-test-fraction", -0.1),
        ("seed", -1),
        ("data-root", 3),
    ],
)
def test_what_is_not_allowed_is_named_in_one_line(key: str, value: bool | int | float | str) -> None:
    with pytest.raises(SettingError) as caught:
        DataSettings.from_config({key: value})
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key} = {value!r}: allowed is ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["sst2", "shakespeare", "har"])
def test_only_images_are_augmented(dataset: str) -> None:
    with pytest.raises(SettingError) as caught:
        DataSettings(dataset=dataset, augment="crop-flip")
    assert caught.value.key == "augment"
    assert f'"none" with dataset {dataset!r}' in caught.value.allowed


@pytest.mark.parametrize(("key", "names"), [("dataset", SOURCES), ("partition", SCHEMES), ("augment", AUGMENTATIONS)])
def test_names_that_are_allowed_are_listed(key: str, names: dict[str, object]) -> None:
    with pytest.raises(SettingError) as caught:
        DataSettings.from_config({key: "?"})
    assert all(name in str(caught.value) for name in names)


def test_data_root_is_resolved_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOTILLA_DATA", str(tmp_path))
    settings = DataSettings()
    monkeypatch.setenv("FLOTILLA_DATA", "/elsewhere")
    assert settings.data_root == str(tmp_path)
    assert DataSettings() != settings
    monkeypatch.delenv("FLOTILLA_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataSettings().data_root == str(tmp_path / ".cache" / "flotilla" / "data")
    assert DataSettings(data_root="~/images").data_root == str(tmp_path / "images")


def test_hashable() -> None:
    assert len({DataSettings(), DataSettings(seed=1), DataSettings(seed=2)}) == 2
