"""Windows of padded images, and flips: the crop of the CIFAR recipe for a whole batch."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .random_numbers import below


@dataclass(frozen=True)
class PaddedCrop:
    """Cut a window at a place of its own out of each padded image, and flip it.

    Its draws are four whole numbers an image: top and left corner of the window in the padded image, and whether it is
    flipped from left to right, and from top to bottom.

    Args:
        size: (height, width) of the window; None for all of the image.
        padding: Black pixels on each side.
        hflip, vflip: Probability of a flip.
    """
    size: tuple[int, int] | None = None
    padding: int = 0
    hflip: float = 0.
    vflip: float = 0.

    resamples = False
    width = 4  # draws of an image
    uniforms = 4  # random numbers that they are made of

    @property
    def random(self) -> bool:
        """Whether there may be more than one view of an image."""
        return self.size is not None or self.hflip > 0 or self.vflip > 0

    def output_size(self, stored: Sequence[int]) -> tuple[int, int]:
        """(height, width) of what is cut of images stored with this (height, width), the padding included."""
        return self.size or tuple(side - 2 * self.padding for side in stored)

    def views(self, stored: Sequence[int]) -> int:
        """How many different views there are of an image."""
        down, right = self._places(stored)
        return down * right * (2 if self.hflip else 1) * (2 if self.vflip else 1)

    def number(self, draws: torch.Tensor, stored: Sequence[int]) -> torch.Tensor:
        """Which of the `views` these draws `[B, 4]` make, from 0, int64 `[B]`."""
        top, left, hflip, vflip = draws.unbind(1)
        number = top * self._places(stored)[1] + left
        number = 2 * number + hflip if self.hflip else number
        return 2 * number + vflip if self.vflip else number

    def draw(self, uniform: torch.Tensor, stored: Sequence[int]) -> torch.Tensor:
        """Draws of `M` images, int64 `[M, 4]`, from as many numbers between 0 and 1."""
        corner = [below(u, places) for u, places in zip(uniform[:, :2].unbind(1), self._places(stored), strict=True)]
        return torch.stack([*corner, *draw_flips(uniform[:, 2:], self.hflip, self.vflip)], 1)

    def _places(self, stored: Sequence[int]) -> list[int]:
        return [side - cut + 1 for side, cut in zip(stored, self.output_size(stored), strict=True)]

    def cut(self, images: torch.Tensor, index: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Windows of `images[index]`, bytes `[B, H, W, C]`.

        Args:
            images: Padded, bytes `[N, height, width, C]`.
            index: `[B]`, on the same device.
            draws: `[B, 4]`, on the same device.
        """
        cut = _cut_on_host if images.device.type == 'cpu' else _cut_by_index
        return cut(images, index, draws, self.output_size(images.shape[1:3]))


def draw_flips(uniform: torch.Tensor, hflip: float, vflip: float) -> list[torch.Tensor]:
    """0 or 1 for each image and kind of flip, int64 `[M]` each, from numbers between 0 and 1 `[M, 2]`."""
    return [(u < p).long() for u, p in zip(uniform.unbind(1), (hflip, vflip), strict=True)]


def _cut_by_index(
        images: torch.Tensor, index: torch.Tensor, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A few kernels whatever the batch size."""
    top, left, hflip, vflip = draws[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=index.device) for side in size)
    rows = top + torch.where(vflip > 0, rows.flip(0), rows)
    columns = left + torch.where(hflip > 0, columns.flip(0), columns)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _cut_on_host(
        images: torch.Tensor, index: torch.Tensor, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The same by copying whole rows of windows, which a CPU does about five times as fast."""
    images, (height, width) = images.numpy(), size
    (count, down, across, channels), strides = images.shape, images.strides
    windows = np.lib.stride_tricks.as_strided(  # [N, top, left, row of the window, its bytes]
        images, (count, down - height + 1, across - width + 1, height, width * channels),
        (*strides[:3], strides[1], 1), writeable=False)
    top, left, hflip, vflip = draws.numpy().T
    cut = windows[index.numpy(), top, left]
    for flips, axis, length in ((hflip, 2, channels), (vflip, 1, 1)):
        if len(flipped := np.flatnonzero(flips)):
            pixels = np.arange(cut.shape[axis]).reshape(-1, length)[::-1].ravel()
            cut[flipped] = cut[flipped].take(pixels, axis=axis)
    return torch.from_numpy(cut.reshape(-1, height, width, channels))
