"""Batches on a device: pixels travel as bytes, and are normalised there."""
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import MaybeToTensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from .views import TwoViews, Views

Pixels = torch.Tensor | Views


class Normalise:
    """What ToTensor and Normalize make of an image, of a batch of them, to the last bit.

    Args:
        mean, std: For values from 0 to 1, of each channel or one of all.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean, self.std = mean, std
        self._rows: dict[tuple[int, torch.device], list[torch.Tensor]] = {}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """From bytes `[B, H, W, C]` to float32 of that shape, where they are."""
        flat = pixels.reshape(*pixels.shape[:2], -1).float()  # divided first, as torchvision does
        mean, std = self._row(flat.shape[-1], pixels.device)
        return flat.div_(255).sub_(mean).div_(std).view(pixels.shape)

    def _row(self, length: int, device: torch.device) -> list[torch.Tensor]:
        """Mean and standard deviation, repeated over a row of pixels `[W * C]`: much faster than `[C]`."""
        key = length, device
        if key not in self._rows:
            self._rows[key] = [
                torch.tensor(values).repeat(length // len(values)).to(device) for values in (self.mean, self.std)]
        return self._rows[key]


class Unnormalised:
    """A transform without its normalisation: bytes `[H, W, C]` of a grey or RGB image; all else as the whole has it.

    Args:
        whole: Ends with ToTensor and Normalize.
    """

    def __init__(self, whole: transforms.Compose):
        self.whole = whole
        self.before, self.last = (transforms.Compose(part) for part in (whole.transforms[:-2], whole.transforms[-2:]))

    def __call__(self, image: Any) -> torch.Tensor:
        image = self.before(image)
        if not isinstance(image, Image.Image) or image.mode not in ('L', 'RGB'):
            return self.last(image)
        return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1)


def put_off(transform: Any) -> tuple[Any, Callable[[Pixels], Pixels]]:
    """A transform without its normalisation, as far as it has one at its end; and that, for batches on a device.

    Args:
        transform: Any, `TwoViews` too.

    Returns:
        What to do to an image; and from a batch of what it makes to what the transform makes: float32 `[B, C, H, W]`.
    """
    if isinstance(transform, TwoViews):
        (student, its), (teacher, its_own) = (put_off(each) for each in (transform.student, transform.teacher))
        return TwoViews(student, teacher), lambda views: Views(its(views.student), its_own(views.teacher))
    steps = getattr(transform, 'transforms', [])
    if len(steps) < 2 or not isinstance(steps[-2], (MaybeToTensor, transforms.ToTensor)) \
            or not isinstance(steps[-1], transforms.Normalize):
        return transform, lambda pixels: pixels
    normalise = Normalise(*(tuple(float(value) for value in values) for values in (steps[-1].mean, steps[-1].std)))
    return Unnormalised(transform), lambda pixels: (
        normalise(pixels).permute(0, 3, 1, 2) if pixels.dtype == torch.uint8 else pixels)


class DeviceLoader(DataLoader):
    """A `DataLoader` of (pixels, …) whose batches are on a device.

    Args:
        dataset: With the first of what `put_off` gives as its transform.
        device: Where to.
        finish: The second.
        **options: Of `DataLoader`.
    """

    def __init__(self, dataset: Dataset, device: torch.device, finish: Callable[[Pixels], Pixels], **options: Any):
        super().__init__(dataset, **options)
        self.device, self.finish = device, finish

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in super().__iter__():
            pixels, *rest = (part.to(self.device, non_blocking=True) for part in batch)
            yield self.finish(pixels), *rest
