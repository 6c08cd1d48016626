"""A user's own images, without labels: a folder of them, or one file."""
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.data.readers import get_img_extensions
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import UserError, last_line
from .folders import count_endings, leads_back, unreadable, warn_of_endings
from .reading import read_image
from .sampler import ShardSampler
from .workers import process_options


class ImageBatch(NamedTuple):
    """Images that could be read, and what to say of those that could not.

    Attributes:
        pixels: Float `[B, channels, H, W]`; None if none could be read.
        index: Their positions among the files, int64 `[B]`.
        broken: A message for each of the others.
    """
    pixels: torch.Tensor | None
    index: torch.Tensor
    broken: list[str]


def find_images(path: str | os.PathLike) -> list[str]:
    """The image files below a folder, links followed and hidden files left out, sorted; or the one file itself.

    Images that are passed over for their endings are counted in the log.

    Raises:
        UserError: Nothing there, a folder without images, or one that cannot be read.
    """
    path = os.fspath(path)
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"there is no image file or folder '{path}'")
    extensions = tuple(get_img_extensions())
    found, endings = [], Counter[str]()
    for folder, below, files in os.walk(path, followlinks=True, onerror=unreadable):
        below[:] = [name for name in below if not (name.startswith('.') or leads_back(os.path.join(folder, name)))]
        found += [
            os.path.join(folder, name) for name in files
            if name.lower().endswith(extensions) and not name.startswith('.')]
        endings += count_endings(files)
    warn_of_endings(path, endings, 'or name a file itself')
    if not found:
        raise UserError(f"there are no images ({' '.join(extensions)}) in '{path}'")
    return sorted(found, key=lambda file: Path(file).parts)


def create_image_loader(
        files: Sequence[str],
        transform,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
) -> DataLoader:
    """Batches of this rank's share of the files, each file once over all ranks, in order.

    Args:
        files: Of images.
        transform: From an image, opened in RGB, to a tensor.
        batch_size: Per process; a batch has fewer where images are broken.
        rank: Of this process.
        world_size: Number of processes.
        workers: Loader processes; 0 loads in this one.
        pin_memory: Page-locked batches, for copies to an accelerator.

    Returns:
        A loader of `ImageBatch`.
    """
    return DataLoader(
        _ImageFiles(files, transform), batch_size=batch_size, sampler=ShardSampler(len(files), rank, world_size),
        collate_fn=_collate, **process_options(workers, pin_memory))


class _ImageFiles(Dataset):
    """(pixels, None) of a file, or (None, message) of one that cannot be read; and its position."""

    def __init__(self, files: Sequence[str], transform):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, str | None, int]:
        try:
            return self.transform(read_image(self.files[index], 'RGB')), None, index
        except UserError as e:
            return None, last_line(e), index


def _collate(samples: Sequence[tuple[Any, str | None, int]]) -> ImageBatch:
    pixels = [image for image, _, _ in samples if image is not None]
    index = [index for image, _, index in samples if image is not None]
    broken = [message for _, message, _ in samples if message is not None]
    return ImageBatch(default_collate(pixels) if pixels else None, torch.tensor(index, dtype=torch.int64), broken)
