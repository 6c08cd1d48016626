"""Resampling as Pillow does it, as matrices: one from the pixels of an image to those of the resized one."""
import math

import torch


def _bilinear(x: torch.Tensor) -> torch.Tensor:
    return (1 - x.abs()).clamp(min=0)


def _hamming(x: torch.Tensor) -> torch.Tensor:
    window = 0.54 + 0.46 * (math.pi * x).cos()
    return torch.where(x.abs() < 1, x.sinc() * window, 0)


def _bicubic(x: torch.Tensor) -> torch.Tensor:
    """Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711, with a = -1/2."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def _lanczos(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < 3, x.sinc() * (x / 3).sinc(), 0)


FILTERS = {'bilinear': _bilinear, 'hamming': _hamming, 'bicubic': _bicubic, 'lanczos': _lanczos}


def resampling_weights(
        name: str,
        places: torch.Tensor,
        resized: torch.Tensor,
        start: torch.Tensor,
        length: torch.Tensor,
        stored: int,
) -> torch.Tensor:
    """Weights of the pixels of a line, of which a part is resized; each image with its own.

    When it shrinks, a filter is as wide as the pixels of the result, as in Pillow (antialiasing).

    Args:
        name: One of `FILTERS`.
        places: Which pixels of the resized part are wanted, `[B, P]`.
        resized: How many it has, `[B, 1]`.
        start, length: Where the part begins on the line, and how many pixels it has, `[B, 1]`.
        stored: Pixels of the line, S.

    Returns:
        float32 `[B, P, S]`; the sum over S is 1.
    """
    pixels = torch.arange(stored, device=places.device) - start
    centres, wanted = (2 * pixels + 1) * resized, (2 * places + 1) * length  # in units of 1 / (2 * resized) pixels
    width = 2 * resized.maximum(length)
    distance = (centres.float()[:, None] - wanted.float()[..., None]) / width[..., None]  # exact but for the division
    inside = ((pixels >= 0) & (pixels < length))[:, None]
    weights = torch.where(inside, FILTERS[name](distance), 0)
    return _rounded(weights / weights.sum(-1, keepdim=True))


def _rounded(weights: torch.Tensor) -> torch.Tensor:
    """To 22 bits, as Pillow does, so that what lies between two grey levels is rounded as there."""
    return (weights * 2 ** 22).round() / 2 ** 22
