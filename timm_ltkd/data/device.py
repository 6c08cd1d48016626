"""Batches on a device: pixels travel as bytes, and are normalised there."""
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import MaybeToTensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from .views import TwoViews, Views


class Normalise:
    """What ToTensor and Normalize make of an image, of a batch of them; on a CPU to the last bit.

    Args:
        mean, std: For values from 0 to 1, of each channel or one of all.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = ([float(value) for value in values] for values in (mean, std))
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


def channels_first(pixels: torch.Tensor) -> torch.Tensor:
    """`[B, H, W, C]` as `[B, C, H, W]`, in channels_last layout; of one channel as it is usually laid out."""
    batch, height, width, channels = pixels.shape
    return pixels.reshape(batch, 1, height, width) if channels == 1 else pixels.permute(0, 3, 1, 2)


class Unnormalised:
    """A transform but for its normalisation: bytes `[H, W, C]`, of grey and RGB images; of others as the whole has it.

    Args:
        whole: Ends with ToTensor and Normalize; what it makes of bytes is what `finish` makes of a batch of them.

    Attributes:
        transforms: All steps of the whole.
    """

    def __init__(self, whole: transforms.Compose):
        self.transforms = whole.transforms
        self._before, self._last = (transforms.Compose(part) for part in (self.transforms[:-2], self.transforms[-2:]))
        self._normalise = Normalise(self.transforms[-1].mean, self.transforms[-1].std)

    def __call__(self, image: Any) -> torch.Tensor:
        image = self._before(image)
        bands = {'L': 1, 'RGB': 3}.get(image.mode, 0) if isinstance(image, Image.Image) else 0
        if len(self._normalise.mean) not in (1, bands) or not bands:
            return self._last(image)
        return torch.from_numpy(np.array(image)).view(image.height, image.width, bands)

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """From a batch of what is made of images to float32 `[B, C, H, W]`."""
        return channels_first(self._normalise(pixels)) if pixels.dtype == torch.uint8 else pixels


def split_normalisation(transform: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A transform without the normalisation that it ends with, if it does; and that, for batches on a device.

    Args:
        transform: Any, `TwoViews` too.

    Returns:
        What to do to an image; and from a batch of what it makes to a batch of what the transform makes.
    """
    if isinstance(transform, TwoViews):
        (student, its), (teacher, its_own) = map(split_normalisation, (transform.student, transform.teacher))
        return TwoViews(student, teacher), lambda views: Views(its(views.student), its_own(views.teacher))
    last = [type(step) for step in getattr(transform, 'transforms', [])[-2:]]
    if last not in ([MaybeToTensor, transforms.Normalize], [transforms.ToTensor, transforms.Normalize]):
        return transform, lambda pixels: pixels
    unnormalised = Unnormalised(transform)
    return unnormalised, unnormalised.finish


class DeviceLoader(DataLoader):
    """A `DataLoader` of (pixels, …) whose batches are on a device.

    Args:
        dataset: Its transform is the first of what `split_normalisation` gives.
        device: Where to.
        finish: The second.
        **options: Of `DataLoader`.
    """

    def __init__(self, dataset: Dataset, device: torch.device, finish: Callable[[Any], Any], **options: Any):
        super().__init__(dataset, **options)
        self.device, self.finish = device, finish

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in super().__iter__():
            pixels, *rest = (part.to(self.device, non_blocking=self.device.type == 'cuda') for part in batch)
            yield self.finish(pixels), *rest
