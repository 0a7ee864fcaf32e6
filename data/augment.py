"""Augmentation of training batches, on whole tensors and on the device where they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

Augmentation = Callable[[Tensor, torch.Generator], Tensor]

_PADDING = 4


def augment(inputs_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every image by up to 4 pixels each way and mirror every other one, left to right.

    The usual augmentation of CIFAR (He et al., CVPR 2016, section 4.2): a random crop of the image padded by 4 on each
    side, and a horizontal flip with probability 1/2. Padding is 0 *after* normalisation, the mean colour; torchvision
    pads with black before it.

    Args:
        inputs_BCHW: images [B, C, H, W]; not written to.
        generator: where the draws come from; they are made on its device, so the same generator gives the same images
            on every device.

    Returns:
        A new tensor of the same shape, dtype and device.
    """
    count, channels, height, width = inputs_BCHW.shape
    device = inputs_BCHW.device

    def draw(limit: int) -> Tensor:
        return torch.randint(limit, (count, 1), generator=generator, device=generator.device).to(device)

    down, right, mirrored = draw(2 * _PADDING + 1), draw(2 * _PADDING + 1), draw(2).bool()
    columns = torch.arange(width, device=device)
    rows_BH = torch.arange(height, device=device) + down
    columns_BW = torch.where(mirrored, columns.flip(0), columns) + right
    padded = pad(inputs_BCHW, (_PADDING,) * 4)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return padded[image, channel, rows_BH[:, None, :, None], columns_BW[:, None, None, :]]


AUGMENTATIONS: dict[str, Augmentation | None] = {"none": None, "crop-flip": augment}
