"""Random erasing of a whole batch, each image with boxes of its own."""
import math
from dataclasses import dataclass

import torch
from timm.data.random_erasing import RandomErasing

from .random_numbers import ATTEMPTS, below, between, mix, normals


@dataclass(frozen=True)
class Erasing:
    """What timm's `RandomErasing` does, with the same distribution.

    Its draws are top, left, height and width of each box (0 where there is none), and last a key for what fills them.

    Source: Zhong et al. 2020, arXiv 1708.04896, algorithm 1; several boxes and the fillings as in timm.

    Args:
        probability: That there is any box.
        area: Smallest and largest share of the image, of all boxes together.
        log_ratio: Smallest and largest logarithm of height / width.
        mode: Filled with 0 ('const'), a normal number for each box and channel ('rand'), or each pixel ('pixel').
        counts: Fewest and most boxes.
    """
    probability: float
    area: tuple[float, float]
    log_ratio: tuple[float, float]
    mode: str
    counts: tuple[int, int]

    @classmethod
    def of(cls, step: RandomErasing) -> 'Erasing':
        """The same as timm's."""
        mode = 'pixel' if step.per_pixel else 'rand' if step.rand_color else 'const'
        return cls(
            step.probability, (step.min_area, step.max_area), tuple(step.log_aspect_ratio), mode,
            (step.min_count, step.max_count))

    @property
    def width(self) -> int:
        """Draws of an image."""
        return 4 * self.counts[1] + 1

    @property
    def uniforms(self) -> int:
        """Random numbers that they are made of."""
        return 2 + self.counts[1] * (2 * ATTEMPTS + 2)

    def draw(self, uniform: torch.Tensor, keys: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Draws of `M` images of (height, width), int64 `[M, width]`, from numbers between 0 and 1 and a key each."""
        least, most = self.counts
        count = least + below(uniform[:, 1:2], most - least + 1)
        count = torch.where(uniform[:, :1] <= self.probability, count, 0)  # [M, 1], as all that follows [M, boxes]
        uniform = uniform[:, 2:].unflatten(1, (most, -1))
        boxes = self._sides(uniform[..., :-2], count, size)
        there = (torch.arange(most) < count)[..., None]
        corner = [below(uniform[..., k - 2], size[k] - boxes[..., k] + 1) for k in (0, 1)]
        boxes = torch.where(there, torch.cat([torch.stack(corner, -1), boxes], -1), 0)
        return torch.cat([boxes.flatten(1), mix(keys)[:, None]], 1)

    def _sides(self, uniform: torch.Tensor, count: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Height and width of each box, `[M, boxes, 2]`: of the first attempt at which it is smaller than the image."""
        areas, ratios = uniform.chunk(2, -1)
        areas = between(areas, self.area) * (size[0] * size[1]) / count[..., None].clamp(min=1)
        ratios = between(ratios, self.log_ratio).exp()
        sides = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()], -1).round().long()
        fits = (sides < torch.tensor(size)).all(-1)  # [M, boxes, attempts]
        first = fits.long().argmax(-1)[..., None, None].expand(-1, -1, 1, 2)
        return torch.where(fits.any(-1)[..., None], sides.gather(2, first)[:, :, 0], 0)

    def erase(self, pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Normalised images `[B, H, W, C]` with their boxes filled; those on a CPU in place.

        Args:
            pixels: float32.
            draws: `[B, width]`, on the same device.
        """
        if pixels.device.type == 'cpu':  # which can look first, without a wait
            chosen = draws[:, :-1].any(1)
            pixels[chosen] = self._erased(pixels[chosen], draws[chosen])
            return pixels
        return self._erased(pixels, draws)

    def _erased(self, pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        down, across = (torch.arange(side, device=pixels.device) for side in pixels.shape[1:3])
        fillings = self._fillings(pixels, draws[:, -1])
        for k, filling in enumerate(fillings):
            top, left, height, width = draws[:, 4 * k:4 * k + 4, None].unbind(1)
            rows, columns = (down >= top) & (down < top + height), (across >= left) & (across < left + width)
            pixels = torch.where(rows[:, :, None, None] & columns[:, None, :, None], filling, pixels)
        return pixels

    def _fillings(self, pixels: torch.Tensor, keys: torch.Tensor) -> list[torch.Tensor]:
        """What is in each box, to be broadcast to the shape of `pixels`."""
        most = self.counts[1]
        if self.mode == 'const':
            return [pixels.new_zeros(())] * most
        if self.mode == 'rand':
            return list(normals(keys, most * pixels.shape[-1])[:, None, None].chunk(most, -1))
        return [normals(keys, math.prod(pixels.shape[1:])).view(pixels.shape)] * most  # the same where boxes overlap
