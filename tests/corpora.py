"""Small files in the formats of the texts and signals that a run can use, for tests on a bare machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.har import TEST_SUBJECTS

SUBJECTS = (1, 2, 3, 5, 9, 30)  # 2 and 9 are tested


def write_sst2(root: Path, train: int = 60, test: int = 20) -> int:
    """Sentences whose label shows in one word; returns how many different words the train split has."""
    folder = root / "SST2"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    words: set[str] = set()
    for part, count in (("train", train), ("test", test)):
        lines = []
        for number in range(count):
            label = number % 2
            text = [f"word{i}" for i in draw.integers(0, 12, draw.integers(2, 9))] + [("dull", "fine")[label], "."]
            words |= set(text) if part == "train" else set()
            lines.append(f"{label} {' '.join(text)}\n")
        (folder / f"stsa.binary.{part}").write_text("".join(lines))
    return len(words)


def write_shakespeare(root: Path, speeches: int = 12) -> dict[str, str]:
    """Speakers of whom each says something over and over, and one who says too little; returns what each says."""
    folder = root / "Shakespeare"
    folder.mkdir(parents=True)
    says = {
        "First Ghost": "To be, or not to be: that is the question.",
        "ROMEO": "But soft! what light\nbreaks?",
        "All": "Ay.",
    }
    text = "".join(f"{name}:\n{line}\n\n" for _ in range(speeches) for name, line in says.items() if name != "All")
    (folder / "input.txt").write_text(f"{text}All:\nAy.\n\nGHOST:\n")
    counts = {"First Ghost": speeches, "ROMEO": speeches, "All": 1}
    return {name: "\n".join([line] * counts[name]) for name, line in says.items()}


def har_arrays(windows: int = 8) -> dict[str, NDArray[np.generic]]:
    """`windows` of each of `SUBJECTS`; every activity has its own levels and rates of oscillation."""
    draw = np.random.default_rng(0)
    subject = np.repeat(np.array(SUBJECTS, np.uint8), windows)
    label = (np.arange(len(subject)) % 6).astype(np.uint8)
    time = np.arange(128) / 128
    values = np.sin(2 * np.pi * (1 + 2 * label[:, None, None]) * (time + draw.random((len(label), 9, 1))))
    levels = draw.normal(size=(6, 9))[label][:, :, None] + np.arange(9)[:, None]
    values = (values + 0.1 * draw.normal(size=values.shape) + levels).astype(np.float32)
    halves = values.reshape(-1, 9, 2, 64).swapaxes(1, 2).reshape(-1, 9, 64)
    order = draw.permutation(len(halves))
    pairs = np.argsort(order).reshape(-1, 2).astype(np.uint16)
    return {"half_windows": halves[order], "window_halves": pairs, "label": label, "subject": subject}


def har_windows(arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """[N, 9, 128], put together window by window."""
    halves, pairs = arrays["half_windows"], arrays["window_halves"]
    windows = [np.concatenate([halves[int(first)], halves[int(second)]], axis=1) for first, second in pairs.tolist()]
    return np.stack(windows).astype(np.float32)


def write_har(root: Path, arrays: dict[str, NDArray[np.generic]] | None = None) -> dict[str, NDArray[np.generic]]:
    """The file of arrays; returns what it holds."""
    found = har_arrays() if arrays is None else arrays
    (root / "UCIHAR").mkdir(parents=True, exist_ok=True)
    np.savez(root / "UCIHAR" / "ucihar_inertial_by_subject.npz", **found)  # type: ignore[arg-type]
    return found


def write_har_texts(root: Path, arrays: dict[str, NDArray[np.generic]]) -> Path:
    """The same windows as UCI's archive has them; returns its folder."""
    folder = root / "UCIHAR" / "UCI HAR Dataset"
    values, labels, subjects = har_windows(arrays), arrays["label"].astype(int) + 1, arrays["subject"].astype(int)
    signals = [f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]
    tested = np.isin(subjects, TEST_SUBJECTS)
    for part, rows in (("train", ~tested), ("test", tested)):
        where = folder / part / "Inertial Signals"
        where.mkdir(parents=True)
        for channel, signal in enumerate(signals):
            np.savetxt(where / f"{signal}_{part}.txt", values[rows, channel], fmt="%.9e")
        np.savetxt(folder / part / f"y_{part}.txt", labels[rows], fmt="%d")
        np.savetxt(folder / part / f"subject_{part}.txt", subjects[rows], fmt="%d")
    return folder
