"""Of an error a device says a code and a sentence; what it was stays in its own log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from client_app.errors import told
from flotilla.local.grid import contexts
from models.errors import SettingError
from protocol import WireError
from tests.support import Player, address_of, keys_of

SECRET = "/home/ward-3/emile-zola.png"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", SECRET),
        SettingError("data-root", SECRET, f"a folder of readable images ({SECRET}: truncated)"),
        SettingError("model", "x", f"a name, or an import path (cannot import y from z, {SECRET})"),
        RuntimeError(f"cannot decode {SECRET}"),
        KeyError(SECRET),
        WireError(f"no such network; looked at {SECRET}"),
        UnicodeEncodeError("utf-8", SECRET, 0, 1, SECRET),
        MemoryError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_path_and_no_file_name_is_said(error: Exception) -> None:
    said = str(told(error))
    assert "emile" not in said
    assert "ward" not in said
    assert re.match(r"\w+: \w", said)


def test_what_the_server_has_to_know_is_said() -> None:
    assert "codec 'zstd'" in str(told(WireError("codec 'zstd': this client knows qsgd")))
    assert "1/2" in str(told(SettingError("rate", "1/2", "another")))


def test_a_damaged_picture_is_named_on_the_device_only(
    play: Player, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The honest device of a hospital: its error reaches the server's metrics, the patient's name does not."""
    for owner in ("everybody", "ward"):
        for part in ("train", "test"):
            for name in ("ant", "bee"):
                folder = tmp_path / owner / part / name
                folder.mkdir(parents=True)
                for number in range(8):
                    Image.new("L", (8, 8), 20 * number).save(folder / f"{number}.png")
    (tmp_path / "ward" / "train" / "ant" / "emile-zola.png").write_bytes(b"no picture")
    keys: dict[str, Any] = {
        "num_clients": 3,
        "dataset": "image-folder",
        "data_root": str(tmp_path / "everybody"),
        "image_size": 8,
        "num_server_rounds": 1,
    }
    nodes = contexts(keys_of(**keys), 3)
    nodes[address_of(1)].node_config["data-root"] = str(tmp_path / "ward")
    out = play(nodes=nodes, **keys)
    assert out.summary["status"] == "finished"
    said = "the device's own data cannot be used (a picture cannot be read; its log says which)"
    assert [one["reason"].partition("data: ")[2] for one in out.rejected] == [said]
    written = "".join(file.read_text() for file in out.path.rglob("*.json*"))
    assert "emile" not in written
    assert str(tmp_path / "ward") not in written
    assert "emile-zola.png" in caplog.text
