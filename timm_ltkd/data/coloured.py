"""Sets whose images are not what timm's readers give: grey ones, arrays, without a transform."""
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..errors import UserError
from .labels import dataset_class_names, dataset_targets
from .reading import convert, sample_name


class Coloured(Dataset):
    """A set whose images are RGB, whatever it keeps: networks and transforms take them as those of other sets.

    Args:
        base: Gives Pillow images, or uint8 arrays `[H, W]` or `[H, W, 3]`. Its transforms, if it has any, are taken
            over, and come after the conversion.
    """

    def __init__(self, base: Dataset):
        self.transform, self.target_transform = (_take(base, name) for name in ('transform', 'target_transform'))
        self.base, self.targets, self.class_names = base, dataset_targets(base), dataset_class_names(base)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple:
        sample = self.base[index]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise UserError(f'{type(self.base).__name__} gives something else than (image, class index) for a sample')
        image, target = sample
        image = convert(self._as_image(image), 'RGB')
        return (
            image if self.transform is None else self.transform(image),
            target if self.target_transform is None else self.target_transform(target))

    def _as_image(self, image: Any) -> Image.Image:
        if isinstance(image, Image.Image):
            return image
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
            with suppress(TypeError):  # no mode of Pillow's has so many channels, as of [3, H, W]
                return Image.fromarray(image)
        got = f'an array of {image.dtype}' if isinstance(image, np.ndarray) else f'a {type(image).__name__}'
        raise UserError(
            f'{type(self.base).__name__} gives {got} for an image; let it give a Pillow image, or uint8 [H, W, 3], '
            'before any transform')

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str | None:
        """The file of a sample, where the set keeps it."""
        return sample_name(self.base, index, basename, absolute)


def _take(dataset: Dataset, name: str) -> Any:
    """An attribute of a dataset that is None from now on; None if it has none."""
    value = getattr(dataset, name, None)
    if value is not None:
        setattr(dataset, name, None)
    return value
