"""Random crops that are resized, of a whole batch, each image with a crop of its own."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import interp_mode_to_str, str_to_pil_interp

from ...errors import UserError
from .filters import FILTERS, resampling_weights
from .padded_crop import draw_flips
from .random_numbers import ATTEMPTS, below, between


@dataclass(frozen=True)
class RandomBox:
    """A box of random area and random ratio of width to height, all of which is resized.

    As timm's `RandomResizedCropAndInterpolation`: 10 attempts to find a box inside the image, then as much of its
    centre as the ratio allows. Source: Szegedy et al. 2015, arXiv 1409.4842, section 6.

    Args:
        scale: Smallest and largest area, as a share of the image's.
        ratio: Smallest and largest ratio.
    """
    scale: tuple[float, float]
    ratio: tuple[float, float]

    uniforms = 2 * ATTEMPTS + 2

    def draw(self, uniform: torch.Tensor, stored: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
        """The lines of `ResampledCrop`, int64 `[M, 8]`, of numbers between 0 and 1 `[M, uniforms]`."""
        areas, ratios = uniform[:, :-2].chunk(2, 1)
        areas, ratios = between(areas, self.scale) * math.prod(stored), _log_between(ratios, self.ratio)
        sides = torch.stack([(areas / ratios).sqrt(), (areas * ratios).sqrt()], -1).round().long().clamp(min=1)
        fits = (sides <= torch.tensor(stored)).all(-1)  # [M, attempts]
        found, first = fits.any(1), fits.long().argmax(1)[:, None, None].expand(-1, 1, 2)
        sides, lines = sides.gather(1, first)[:, 0], []
        for line, central in enumerate(self._central(*stored)):
            length = torch.where(found, sides[:, line], central)
            anywhere = below(uniform[:, line - 2], stored[line] - length + 1)
            start = torch.where(found, anywhere, (stored[line] - central) // 2)
            lines += [start, length, torch.full_like(start, size[line]), torch.zeros_like(start)]
        return torch.stack(lines, 1)

    def _central(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the box at the centre."""
        low, high = self.ratio
        if width / height < low:
            return round(width / low), width
        return (height, round(height * high)) if width / height > high else (height, width)


@dataclass(frozen=True)
class KeptRatio:
    """The whole image, resized until it just covers the window, and then by a random scale, or aspect, or both.

    As timm's `ResizeKeepRatio` with `CenterCropOrPad` or `RandomCropOrPad`.

    Args:
        scale: Smallest and largest share of the area that is seen.
        ratio: Smallest and largest aspect.
        probabilities: Of a random scale, and of a random aspect.
        centred: The window is at the centre, not anywhere.
    """
    scale: tuple[float, float]
    ratio: tuple[float, float]
    probabilities: tuple[float, float]
    centred: bool

    uniforms = 6

    def draw(self, uniform: torch.Tensor, stored: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
        """As that of `RandomBox`."""
        is_scaled, is_stretched = (uniform[:, i] < p for i, p in enumerate(self.probabilities))
        scale = torch.where(is_scaled, between(uniform[:, 2], self.scale) ** -0.5, 1.)
        aspect = torch.where(is_stretched, _log_between(uniform[:, 3], self.ratio).sqrt(), 1.)
        cover, lines = min(side / wanted for side, wanted in zip(stored, size, strict=True)), []
        for line, factor in enumerate((scale / aspect, scale * aspect)):
            resized = (stored[line] * factor / cover).round().long()
            room = resized - size[line]
            anywhere = room.sign() * below(uniform[:, 4 + line], room.abs() + 1)
            offset = _central_offset(room) if self.centred else anywhere
            lines += [torch.zeros_like(resized), torch.full_like(resized, stored[line]), resized, offset]
        return torch.stack(lines, 1)


@dataclass(frozen=True)
class ResampledCrop:
    """A part of the image is resized, and of that a window cut and flipped.

    The draws of an image are four numbers for the lines from top to bottom, and four for those from left to right:
    where the part begins, how long it is, how long it is resized, and where in that the window begins (outside of it
    there is its reflection); then the number of the filter, and whether the window is flipped, from left to right and
    from top to bottom.

    Args:
        size: (height, width) of the window.
        part: Draws the lines.
        filters: One of them is drawn.
        hflip, vflip: Probability of a flip.
    """
    size: tuple[int, int]
    part: RandomBox | KeptRatio
    filters: tuple[str, ...]
    hflip: float = 0.
    vflip: float = 0.

    resamples = True
    width = 11  # draws of an image
    padding = 0
    random = True

    @property
    def uniforms(self) -> int:
        """Random numbers that the draws are made of."""
        return self.part.uniforms + 3

    def output_size(self, stored: Sequence[int]) -> tuple[int, int]:
        """(height, width) of the window."""
        return self.size

    def views(self, stored: Sequence[int]) -> None:
        """Too many to be numbered."""

    def draw(self, uniform: torch.Tensor, stored: Sequence[int]) -> torch.Tensor:
        """Draws of `M` images, int64 `[M, 11]`, of numbers between 0 and 1 `[M, uniforms]`."""
        lines = self.part.draw(uniform[:, :-3], stored, self.size)
        which = below(uniform[:, -3], len(self.filters))
        return torch.cat([lines, torch.stack([which, *draw_flips(uniform[:, -2:], self.hflip, self.vflip)], 1)], 1)

    def cut(self, images: torch.Tensor, index: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Windows of `images[index]`, bytes `[B, H, W, C]`, rows resized before columns.

        On the host Pillow makes them. Elsewhere they are within one grey level of these, by products with matrices: a
        few kernels whatever the batch size. Pillow itself, from version 13 on, resizes columns first where they shrink
        more.

        Args:
            images: Bytes `[N, height, width, C]`.
            index: `[B]`, on the same device.
            draws: `[B, 11]`, on the same device.
        """
        cut = self._cut_on_host if images.device.type == 'cpu' else self._cut_by_weights
        return cut(images, index, draws)

    def _cut_on_host(self, images: torch.Tensor, index: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        images, modes = images.numpy(), [str_to_pil_interp(name) for name in self.filters]
        cut = np.empty((len(index), *self.size, images.shape[3]), np.uint8)
        for place, (i, row) in enumerate(zip(index.tolist(), draws.tolist(), strict=True)):
            down, across, (which, hflip, vflip) = row[:4], row[4:8], row[8:]
            (top, height, tall, _), (left, width, wide, _) = down, across
            part = images[i, top:top + height, left:left + width]
            picture = Image.fromarray(part if part.shape[2] > 1 else part[..., 0])
            picture = picture.resize((wide, height), modes[which]).resize((wide, tall), modes[which])
            pixels = np.asarray(picture).reshape(tall, wide, -1)
            for axis, line in enumerate((down, across)):
                pixels = _window(pixels, axis, line[3], self.size[axis])
            cut[place] = pixels[::-1 if vflip else 1, ::-1 if hflip else 1]
        return torch.from_numpy(cut)

    def _cut_by_weights(self, images: torch.Tensor, index: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        pixels = images[index].permute(0, 1, 3, 2).float()  # [B, height, C, width]
        down, across = (self._weights(draws, line, images.shape[1 + line]) for line in (0, 1))
        with torch.autocast(pixels.device.type, enabled=False):
            pixels = _as_bytes(pixels.flatten(1, 2) @ across.mT)  # Pillow too rounds in between
            pixels = _as_bytes(down @ pixels.view(len(index), images.shape[1], -1))
        return pixels.view(len(index), self.size[0], -1, self.size[1]).permute(0, 1, 3, 2).to(torch.uint8)

    def _weights(self, draws: torch.Tensor, line: int, stored: int) -> torch.Tensor:
        """From the pixels of the stored images to those of the window, along one line, `[B, P, stored]`."""
        start, length, resized, offset = draws[:, 4 * line:4 * line + 4, None].unbind(1)
        flipped = draws[:, 10 - line, None] > 0
        places = torch.arange(self.size[line], device=draws.device)
        places = _reflected(torch.where(flipped, places.flip(0), places) + offset, resized)
        weights, *others = (
            resampling_weights(name, places, resized, start, length, stored) for name in self.filters)
        for number, other in enumerate(others, 1):
            weights = torch.where(draws[:, 8, None, None] == number, other, weights)
        return weights


def filter_names(interpolation) -> tuple[str, ...]:
    """What timm's transforms draw one of, by its name in `FILTERS`.

    Raises:
        UserError: One that is not there.
    """
    modes = interpolation if isinstance(interpolation, (tuple, list)) else [interpolation]
    names = tuple(interp_mode_to_str(mode) for mode in modes)
    if unknown := [name for name in names if name not in FILTERS]:
        raise UserError(f"images in memory cannot be resized by '{unknown[0]}'; use bilinear, or --loader timm")
    return names


def _central_offset(room: torch.Tensor) -> torch.Tensor:
    """Where a window begins that has `room` pixels less than the image: timm rounds as Python does, but pads less at
    the top."""
    return torch.where(room < 0, -(-room // 2), (room / 2).round().long())


def _reflected(places: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Places outside of 0 to `length` - 1 mirrored at the outermost pixels."""
    period = (2 * (length - 1)).clamp(min=1)
    places = places % period
    return torch.minimum(places, period - places) * (length > 1)


def _window(pixels: np.ndarray, axis: int, offset: int, size: int) -> np.ndarray:
    """`size` lines of an image from `offset` on, its reflection outside of it."""
    length = pixels.shape[axis]
    if 0 <= offset <= length - size:
        return pixels[offset:offset + size] if axis == 0 else pixels[:, offset:offset + size]
    places = _reflected(torch.arange(offset, offset + size), torch.tensor(length))
    return np.take(pixels, places.numpy(), axis)


def _log_between(uniform: torch.Tensor, ends: Sequence[float]) -> torch.Tensor:
    return between(uniform, [math.log(end) for end in ends]).exp()


def _as_bytes(values: torch.Tensor) -> torch.Tensor:
    """Rounded to whole grey levels, half up, still float32; in place."""
    return values.add_(0.5).clamp_(0, 255).floor_()
