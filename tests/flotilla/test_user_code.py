"""What `--with` and a folder of the user's own take along: which packages, under which names, and which files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flotilla.user_code import UserCode, UserCodeError, extension_of, make_importable, packages_of
from models.errors import SettingError
from strategies import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    make_importable({})


def test_a_folder_that_says_what_differs(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[tool.flotilla.config]\nmethod = "fedavg"\n')
    found = extension_of(tmp_path)
    assert found is not None
    assert (found.config, list(found.packages)) == ({"method": "fedavg"}, [tmp_path / "nets"])
    assert extension_of(ROOT) is None
    (tmp_path / "pyproject.toml").write_text("[tool.flotilla]\nconfig = 3\n")
    with pytest.raises(UserCodeError, match="packages"):
        extension_of(tmp_path)


@pytest.mark.parametrize("name", ["models", "json", "flotilla", "not-a-name", "torch", "numpy", "pytest"])
def test_names_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "x.py").touch()
    with pytest.raises(UserCodeError):
        packages_of([tmp_path / name], ROOT)


def test_installed_names_are_refused_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module, a package and one without `__init__.py`; the same place, as after `pip install -e`, is the user's."""
    _written(tmp_path, "site/lab_a.py", "site/lab_b/__init__.py", "site/lab_c/x.py")
    _written(tmp_path, "mine/lab_a/x.py", "mine/lab_b.py", "mine/lab_c/x.py", "lab_d/mine/lab_d/x.py")
    (tmp_path / "linked").symlink_to(tmp_path / "site", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for entry in (tmp_path, tmp_path / "linked"):
        monkeypatch.syspath_prepend(str(entry))
    for mine, installed in {"lab_a": "lab_a.py", "lab_b.py": "lab_b", "lab_c": "lab_c"}.items():
        with pytest.raises(UserCodeError, match=rf"is installed in {tmp_path}/linked/{installed}$"):
            packages_of([tmp_path / "mine" / mine], ROOT)
        packages_of([tmp_path / "site" / installed], ROOT)
    packages = packages_of([tmp_path / "lab_d/mine/lab_d"], ROOT)  # what lies in the working directory is not installed
    make_importable(packages)
    assert packages_of([tmp_path / "lab_d/mine/lab_d"], ROOT) == packages


def _written(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_only_the_users_own_code_goes_along(tmp_path: Path) -> None:
    _written(tmp_path, "nets/a.py", "nets/deep/b.py", "nets/.secret.json", "nets/.git/c.py", "nets/__pycache__/d.py")
    _written(tmp_path, "nets/node_modules/e.json", "nets/own/pyvenv.cfg", "nets/own/f.py", "nets/build/g.py")
    _written(tmp_path, "venv/lib/torch/x.py", ".venv/x.py", "env/pyvenv.cfg", "env/x.py", "build/x.py", "dist/x.py")
    _written(tmp_path, "node_modules/x.py", "site-packages/x.py")
    (tmp_path / "pyproject.toml").write_text('[tool.flotilla.config]\nmethod = "fedavg"\n')
    found = extension_of(tmp_path)
    assert found is not None
    for packages in (packages_of(found.packages, ROOT), packages_of([tmp_path], ROOT)):
        assert set(packages) == {"nets"}
        assert set(UserCode(packages).files()) == {"nets/a.py", "nets/build/g.py", "nets/deep/b.py"}
        assert UserCode(packages).warning() == ""


def test_a_folder_of_modules_takes_them_along(tmp_path: Path) -> None:
    _written(tmp_path, "fp.py", "setup.py", "test_fp.py")
    (tmp_path / "pyproject.toml").write_text('[tool.flotilla.config]\nmethod = "fp:FedProx"\n')
    found = extension_of(tmp_path)
    assert found is not None
    assert UserCode(packages_of(found.packages, ROOT)).files() == {"fp.py": tmp_path / "fp.py"}


def test_files_that_a_bundle_cannot_carry_are_named(tmp_path: Path) -> None:
    _written(
        tmp_path, "nets/a.py", "nets/b.toml", "nets/c.npz", "nets/py.typed", *(f"nets/d/{i}.csv" for i in range(6))
    )
    code = UserCode(packages_of([tmp_path / "nets"], ROOT))
    assert code.warning().startswith("7 files do not go along")
    assert code.warning().endswith("nets/c.npz, nets/d/0.csv, nets/d/1.csv, nets/d/2.csv, nets/d/3.csv and 2 more")
    assert set(code.files()) == {"nets/a.py", "nets/b.toml"}


# ---- what a folder stands for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["setup.py", "my_lab/__init__.py", "my_lab/m.py", "tests/test_m.py", "docs/conf.py"], {"my_lab"}),
        (["conftest.py", "my_lab/m.py", "other_lab/m.py"], {"my_lab", "other_lab"}),
        (["pyproject.toml", "train.py", "my_lab/__init__.py"], {"my_lab"}),
        (["setup.cfg", "src/my_lab/__init__.py"], {"my_lab"}),
        (["setup.py", "m.py"], {"given"}),  # as before: its modules are the folder's
        (["m.py", "deep/n.py"], {"given"}),
        (["__init__.py", "setup.py", "deep/n.py"], {"given"}),
        (["src/m.py", "my_lab/m.py"], {"src", "my_lab"}),
    ],
)
def test_a_projects_folder_is_a_folder_of_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], names: set[str]
) -> None:
    _written(tmp_path / "given", *files)
    assert set(packages_of([tmp_path / "given"], ROOT)) == names
    monkeypatch.chdir(tmp_path / "given")
    assert set(packages_of([Path(".")], ROOT)) == names


def test_what_went_along_is_said_where_nothing_is_found(tmp_path: Path) -> None:
    _written(tmp_path, "given/m.py", "given/my_lab/m.py")
    make_importable(packages_of([tmp_path / "given"], ROOT))
    with pytest.raises(SettingError) as caught:
        METHODS["my_lab.m:M"]
    assert f"; of yours go along given ({tmp_path / 'given'}); `flotilla run --with" in str(caught.value)


# ---- links -----------------------------------------------------------------------------------------------------------


def test_linked_folders_go_along_and_links_to_what_they_lie_in_end(tmp_path: Path) -> None:
    _written(tmp_path, "linked_lab/a.py", "real-lab/m.py", "real-lab/deep/n.py", "other/o.py")
    for link, target in {
        "linked_lab/inner": "real-lab",
        "linked_lab/again": "real-lab",
        "linked_lab/self": "linked_lab",
        "linked_lab/parent": ".",
        "real-lab/other": "other",
        "other/back": "real-lab",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    packages = packages_of([tmp_path / "linked_lab"], ROOT)
    each = {"m.py", "deep/n.py", "other/o.py"}
    assert set(UserCode(packages).files()) == {"linked_lab/a.py"} | {
        f"linked_lab/{link}/{file}" for link in ("inner", "again") for file in each
    }
    make_importable(packages)
    importlib.import_module("linked_lab.inner.m")  # as it is in the bundle


def test_a_link_goes_by_its_own_name(tmp_path: Path) -> None:
    _written(tmp_path, "real-lab/m.py", "real-module.py")
    (tmp_path / "named_lab").symlink_to("real-lab", target_is_directory=True)
    (tmp_path / "named.py").symlink_to("real-module.py")
    packages = packages_of([tmp_path / "named_lab", tmp_path / "named.py", tmp_path / "real-lab/../named_lab"], ROOT)
    assert set(packages) == {"named_lab", "named"}
    assert set(UserCode(packages).files()) == {"named_lab/m.py", "named.py"}
    make_importable(packages)
    assert importlib.import_module("named_lab.m").__name__ == "named_lab.m"
    importlib.import_module("named")
