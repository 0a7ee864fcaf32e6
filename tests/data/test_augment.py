"""Augmentation: equal to a plain loop over images, decided by the generator alone."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from data import AUGMENTATIONS, augment


def _images(count: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, 6, 9, generator=torch.Generator().manual_seed(0)) + 1


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_image_is_a_crop_or_a_mirrored_crop() -> None:
    images = _images()
    before = images.clone()
    changed = augment(images, _seeded(1))
    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert changed.is_contiguous()
    seen = set()
    for image, result in zip(images, changed, strict=True):
        padded = pad(image, (4, 4, 4, 4))
        candidates = {}
        for down in range(9):
            for right in range(9):
                crop = padded[:, down : down + 6, right : right + 9]
                candidates[down, right, False], candidates[down, right, True] = crop, crop.flip(2)
        matches = [key for key, crop in candidates.items() if torch.equal(crop, result)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len({key[:2] for key in seen}) > 20
    assert {key[2] for key in seen} == {False, True}


def test_draws_are_uniform() -> None:
    # One bright pixel tells where each of many images went.
    images = torch.zeros(4000, 1, 17, 17)
    images[:, 0, 8, 8] = 1
    where = augment(images, _seeded(0)).flatten(1).argmax(1)
    counts = torch.bincount(torch.stack([where // 17, where % 17]).flatten(), minlength=17)
    assert (counts[4:13] > 700).all()
    assert counts.sum() == counts[4:13].sum() == 8000


def test_same_generator_same_images() -> None:
    images = _images()
    assert torch.equal(augment(images, _seeded(1)), augment(images, _seeded(1)))
    assert not torch.equal(augment(images, _seeded(1)), augment(images, _seeded(2)))


def test_none_is_nothing_to_do() -> None:
    assert AUGMENTATIONS["none"] is None
