"""Pixels that were made for one network, turned into what another was trained on."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.utils import unwrap_model
from torch import nn

from ..errors import UserError

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601, as Pillow has it
_HALF = 0.5001  # many pixels lie halfway between two levels, and would go either way by the device and the versions


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a network's inputs are normalised with, a value for each of its channels.

    They are those of its `pretrained_cfg`, ImageNet's without one. timm leaves three values there for a network that
    was made for one channel: it has their mean.
    """
    model = unwrap_model(model)
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    figures = cfg.get('mean') or IMAGENET_DEFAULT_MEAN, cfg.get('std') or IMAGENET_DEFAULT_STD
    if getattr(model, 'in_chans', None) == 1:
        figures = tuple((sum(values) / len(values),) for values in figures)
    return tuple(tuple(float(value) for value in values) for values in figures)


class PixelAdapter(nn.Module):
    """A batch `[B, C, H, W]` with another normalisation, other channels and another size, on its device.

    Grey images are repeated for a network of three channels; of coloured ones a network of one channel sees the
    luminance. Resizing goes as in Pillow, and in timm's transforms that use it: across, then down, antialiased, each
    time rounded to one of the 256 levels of a byte. What random erasing has filled with noise beyond black and white
    is cut off there.

    Args:
        mean, std: Of the normalisation that goes out, per channel, for values from 0 to 1.
        size: (height, width) that goes out; None leaves it.
        interpolation: Of resizing; what is neither 'bilinear' nor 'bicubic' is done bicubically.
    """

    def __init__(
            self,
            mean: Sequence[float],
            std: Sequence[float],
            size: tuple[int, int] | None = None,
            interpolation: str = 'bicubic',
    ):
        super().__init__()
        self.size = size
        self.mode = 'bilinear' if interpolation == 'bilinear' else 'bicubic'
        self.unchanged, self.to_grey = True, False
        self._expected: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        for name, values in (('mean', mean), ('std', std)):
            self._keep(name, torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1))
        self.expect(mean, std)

    def expect(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """State how arriving pixels are normalised, with a value per channel; equal pixels pass untouched.

        Raises:
            UserError: Channels that cannot be turned into those that go out.
        """
        if (asked := (tuple(mean), tuple(std))) == self._expected:
            return
        arriving, leaving = len(mean), self.mean.shape[1]
        if arriving not in (1, leaving) and (arriving, leaving) != (3, 1):
            raise UserError(
                f'images of {arriving} channels cannot be turned into {leaving}: student and teacher must have as '
                'many, or one of them one and the other three')
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
        own_mean, own_std = (values.cpu().double() for values in (self.mean, self.std))
        self.unchanged = arriving == leaving and _close(mean, own_mean) and _close(std, own_std)
        self.to_grey = (arriving, leaving) == (3, 1)
        if self.to_grey:
            weights = torch.tensor(LUMINANCE, dtype=torch.float64).view(1, 3, 1, 1)
            mean, std = (weights * mean).sum(dim=1, keepdim=True), weights * std
        self._keep('scale', std / own_std)
        self._keep('shift', (mean - own_mean) / own_std)
        self._keep('level_scale', 255 * std)
        self._keep('level_shift', 255 * mean)
        self._expected = asked

    def _keep(self, name: str, values: torch.Tensor) -> None:
        """As a buffer in float32, where the others are."""
        device = self.mean.device if name != 'mean' else None
        self.register_buffer(name, values.to(device, torch.float32), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.size is None or tuple(input.shape[-2:]) == self.size:
            return input if self.unchanged else self._affine(input, self.scale, self.shift)
        levels = self._affine(input.float(), self.level_scale, self.level_shift)
        height, width = self.size
        for size in ((input.shape[-2], width), (height, width)):
            levels = _whole_levels(F.interpolate(levels, size, mode=self.mode, antialias=True, align_corners=False))
        return (levels / 255 - self.mean) / self.std

    def _affine(self, input: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Scaled and shifted by channel; the channels of colours that become grey are added up in between."""
        input = input * scale.to(input.dtype)
        return (input.sum(dim=1, keepdim=True) if self.to_grey else input) + shift.to(input.dtype)


def _whole_levels(levels: torch.Tensor) -> torch.Tensor:
    """Rounded (a half up, as Pillow rounds) and cut off at the levels that a byte has."""
    return (levels + _HALF).floor().clamp(0, 255)


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, rtol=0, atol=1e-6)
