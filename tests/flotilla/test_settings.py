from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from flotilla.own_app import own_app
from flotilla.settings import SettingsError, free_name, parse_run_config, prepare, run_name
from models.device import device_like

PYPROJECT = """
[tool.flwr.app.config]
method = "heterofl"
dataset = "digits"
num-clients = 7
data-root = ""
run-dir = ""
resume = ""
[tool.flwr.app.config.deep]
value = 1
"""


@pytest.fixture
def app_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["", "  "], {}),
        (["a=1 b=2.5 c=true d='x y'"], {"a": 1, "b": 2.5, "c": True, "d": "x y"}),
        (['a="x=1 y" ', "a-b=0"], {"a": "x=1 y", "a-b": 0}),
        (["a.b=3"], {"a.b": 3}),
        (['a="say \\"hi\\""'], {"a": 'say "hi"'}),
        (["a=1\n\tb=2"], {"a": 1, "b": 2}),
    ],
)
def test_parses_pairs(texts: list[str], expected: dict[str, object]) -> None:
    assert parse_run_config(texts) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("method=fedrolex", """'method="fedrolex"'"""),
        ("a = 1", "'a = 1'"),
        ("a=1 nonsense", "'nonsense'"),
        ('a="lost', """'a="lost'"""),
        ("a=", "'a='"),
        ("a=[1,2]", "a = [1, 2]"),
        ("a=1,2", "not TOML"),
        ("a=1 b.toml", "'b.toml'"),
        ("a=True", "a = True: booleans are true or false"),
        ("a=FALSE", "a = FALSE: booleans are true or false"),
        ("a=1 b=2 a=3", "a is given twice, as 1 and as 3"),
    ],
)
def test_refuses_what_flwr_would_drop(text: str, part: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_run_config([text])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reads_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text("x = 1\n[deep]\nvalue = 'y'\n")
    assert parse_run_config([str(file)]) == {"x": 1, "deep.value": "y"}
    with pytest.raises(SettingsError, match="not both"):
        parse_run_config([str(file), "x=1"])
    with pytest.raises(SettingsError, match=r"cannot read .*none\.toml"):
        parse_run_config([str(tmp_path / "none.toml")])


def test_prepare_overlays_and_names(app_dir: Path) -> None:
    settings = prepare(app_dir, ['method="fed/rolex" data-root="d"'], now=datetime(2026, 11, 21, 9, 8, 7))
    assert settings.config["run-dir"] == str(app_dir / "runs" / "20261121-090807-fed_rolex-digits")
    assert settings.config["data-root"] == str(app_dir / "d")
    assert settings.config["deep.value"] == 1
    assert settings.overrides.keys() == {"method", "data-root", "run-dir"}
    assert settings.nodes == 7
    assert settings.log == app_dir / "runs" / "20261121-090807-fed_rolex-digits.log"
    assert prepare(app_dir, nodes=3).nodes == 3


def test_numbers_are_what_a_message_can_carry(app_dir: Path) -> None:
    assert prepare(app_dir, [f"deep.value={2**63 - 1}"]).config["deep.value"] == 2**63 - 1
    for value in (2**63, -(2**63) - 1):
        with pytest.raises(SettingsError, match=rf"^deep.value = {value}: allowed is an integer in 64 bits"):
            prepare(app_dir, [f"deep.value={value}"])


def test_the_device_is_one_that_the_machine_has_that_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = ['device="cuda" num-clients=2 model="mlp"']
    with pytest.raises(SettingsError, match=r"^device = 'cuda': allowed is \"auto\" or \"cpu\" on this machine"):
        prepare(own_app(), asked, run_dir=tmp_path / "run")
    assert prepare(own_app(), asked, run_dir=tmp_path / "run", one_machine=False).config["device"] == "cuda"
    assert device_like("cuda").type == "cpu"  # where a server scores such a run


def test_resume_makes_no_new_run_folder(app_dir: Path) -> None:
    settings = prepare(app_dir, resume=Path("runs/old"))
    assert settings.config["resume"] == str(app_dir / "runs" / "old")
    assert settings.config["run-dir"] == ""


def test_a_key_given_twice_in_any_two_places(app_dir: Path) -> None:
    with pytest.raises(SettingsError, match="num-clients is given twice, as 3 and as 4"):
        prepare(app_dir, ["num-clients=3", "num-clients=4"])
    with pytest.raises(SettingsError, match="run-dir is given twice, as 'a' and as --run-dir b"):
        prepare(app_dir, ["run-dir='a'"], run_dir=Path("b"))


def test_unknown_key_names_the_likely_ones(app_dir: Path) -> None:
    with pytest.raises(SettingsError, match=r"metod = 'x': no such setting; did you mean method\? this app has met"):
        prepare(app_dir, ['metod="x"'])
    with pytest.raises(SettingsError) as caught:
        prepare(app_dir, ["run=1"])
    meant = str(caught.value).partition(" this app has ")[0]
    assert meant.endswith("did you mean run-dir?")


def test_the_folder_to_go_on_with_is_the_one_resumed(app_dir: Path) -> None:
    assert prepare(app_dir, resume=Path("runs/old")).folder == app_dir / "runs" / "old"
    assert prepare(app_dir, run_dir=Path("here")).folder == app_dir / "here"


def test_not_an_app(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no pyproject\.toml"):
        prepare(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(SettingsError, match=r"pyproject\.toml: no pyproject\.toml there, so it is not the folder of"):
        prepare(tmp_path / "pyproject.toml")
    with pytest.raises(SettingsError, match=r"no \[tool\.flwr\.app\]"):
        prepare(tmp_path)


def test_names_without_method(tmp_path: Path) -> None:
    assert run_name({}, datetime(2026, 1, 2, 3, 4, 5)) == "20260102-030405"
    assert free_name(tmp_path, "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    assert free_name(tmp_path, "a") == tmp_path / "a-2"
