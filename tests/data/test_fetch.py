"""Downloads: through torchvision's own code from a local server; failing and hanging ones."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data import DataSettings, load, sst2
from data.fetch import fetch
from data.published import Published
from data.sources import SOURCES
from data.vision import vision_datasets
from models.errors import SettingError
from tests.corpora import write_sst2


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which it is served."""
    monkeypatch.setattr("data.fetch._ASK", 120.0)  # a busy machine may take long to answer itself
    folder = tmp_path / "mirror"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def _idx(sizes: tuple[int, ...], value: int) -> bytes:
    count = 1
    for size in sizes:
        count *= size
    return bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes) + bytes([value]) * count


def test_absent_files_are_downloaded(
    mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, url = mirror
    source = SOURCES["fashion-mnist"]
    assert isinstance(source, Published)
    resources = []
    for file in source.files:
        sizes = (20, 28, 28) if "images" in file else (20,)
        packed = gzip.compress(_idx(sizes, 7 if "train" in file else 3))
        (folder / f"{file}.gz").write_bytes(packed)
        resources.append((f"{file}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(vision_datasets().FashionMNIST, "mirrors", [url])
    monkeypatch.setattr(vision_datasets().FashionMNIST, "resources", resources)
    monkeypatch.setitem(SOURCES, "fashion-mnist", replace(source, address=url + resources[0][0]))
    root = tmp_path / "new" / "root"
    loaded = load(DataSettings(dataset="fashion-mnist", data_root=str(root)))
    assert loaded.train.labels.tolist() == [7] * 20
    assert loaded.test.labels.tolist() == [3] * 20
    assert [entry.name for entry in root.iterdir()] == ["FashionMNIST"]
    assert capfd.readouterr().out == ""


def test_plain_files_are_downloaded_and_checked(
    mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    write_sst2(served)
    names = ("stsa.binary.train", "stsa.binary.test")
    checksums = {name: hashlib.sha256((served / "SST2" / name).read_bytes()).hexdigest() for name in names}
    monkeypatch.setattr(sst2, "_ADDRESS", f"{url}SST2/")
    settings = DataSettings(dataset="sst2", data_root=str(tmp_path / "root"), vocabulary_size=5)
    with pytest.raises(SettingError, match=r"download failed: .*stsa.binary.train is not the published file"):
        load(settings)
    assert list((tmp_path / "root").iterdir()) == []
    monkeypatch.setattr(sst2, "_SHA256", checksums)
    assert len(load(settings).train) == 60
    assert sorted(file.name for file in (tmp_path / "root" / "SST2").iterdir()) == sorted(names)


def test_server_without_the_file(mirror: tuple[Path, str], tmp_path: Path) -> None:
    reason = fetch(lambda _: None, mirror[1] + "gone.gz", "set", tmp_path / "root")
    assert reason == "no network: HTTP Error 404: File not found"


def test_failed_download_leaves_nothing(mirror: tuple[Path, str], tmp_path: Path) -> None:
    def broken(beside: str) -> None:
        (Path(beside) / "set").mkdir()
        (Path(beside) / "set" / "half").write_text("half")
        raise RuntimeError("line\ncut")

    before = socket.getdefaulttimeout()
    assert fetch(broken, mirror[1], "set", tmp_path / "root") == "download failed: line cut"
    assert list((tmp_path / "root").iterdir()) == []
    assert socket.getdefaulttimeout() == before


def test_a_name_service_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        over.wait()
        raise socket.gaierror("at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr("data.fetch._ASK", 0.1)
    try:  # it answers while the name service still hangs, or never
        assert fetch(lambda _: None, "http://example.invalid/", "set", tmp_path) == "no answer from the network"
    finally:
        over.set()
