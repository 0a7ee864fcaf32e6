"""The pictures that all train on: noise over patches of grey that each class has its own of, so that learning shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peers.job import Job

_TEST = 1000
_PART = 1000  # pictures at once
_PATCHES = 4  # along a side


def write_pictures(folder: Path, job: Job) -> Path:
    """Write a job's four arrays into a folder of files: bytes [N, C, H, W] and labels [N]."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(1)
    channels, height, width = job.input_shape
    patches = draws.integers(0, 256, (job.classes, channels, _PATCHES, _PATCHES), dtype=np.uint16)
    means = patches.repeat(height // _PATCHES, axis=2).repeat(width // _PATCHES, axis=3)
    for part, count in (("train", job.clients * job.examples), ("test", _TEST)):
        labels = draws.integers(0, job.classes, count)
        shape = (count, *job.input_shape)
        pixels = np.lib.format.open_memmap(folder / f"x_{part}.npy", mode="w+", dtype=np.uint8, shape=shape)
        for begin in range(0, count, _PART):
            rows = labels[begin : begin + _PART]
            noise = draws.integers(0, 256, (len(rows), *job.input_shape), dtype=np.uint16)
            pixels[begin : begin + _PART] = (means[rows] + noise) // 2
        pixels.flush()
        np.save(folder / f"y_{part}.npy", labels)
    return folder
