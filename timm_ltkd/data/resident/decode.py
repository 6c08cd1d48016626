"""From a data set to bytes in memory: every image is decoded once."""
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from ...errors import UserError, last_line
from ..dataset import LongTailedDataset
from ..workers import process_options, read_once
from .shared_memory import Exchange, raise_together, share_memory


class Layout(NamedTuple):
    """How the images of a data set lie in memory: so many of (height, width, channels), with black around them."""
    count: int
    height: int
    width: int
    channels: int
    padding: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of all images, `[N, height, width, channels]`, the padding included."""
        return self.count, self.height + 2 * self.padding, self.width + 2 * self.padding, self.channels

    @property
    def nbytes(self) -> int:
        """Of all images."""
        return math.prod(self.shape)


def fixed_view(dataset: LongTailedDataset, fixed: Sequence[Callable]) -> LongTailedDataset:
    """The data set with nothing done to its images but the fixed steps; bytes `[channels, height, width]`."""
    return dataset.with_transform(transforms.Compose([*fixed, transforms.PILToTensor()]))


def find_layout(dataset: LongTailedDataset, fixed: Sequence[Callable], padding: int) -> Layout:
    """How the images will lie in memory, by the first of them.

    Raises:
        UserError: There is no image, or the first is broken.
    """
    if not len(dataset):
        raise UserError('there is no image to keep in memory')
    channels, height, width = fixed_view(dataset, fixed)[0][0].shape
    return Layout(len(dataset), height, width, channels, padding)


def decode(
        dataset: LongTailedDataset,
        fixed: Sequence[Callable],
        layout: Layout,
        *,
        workers: int = 0,
        progress: bool = False,
        exchange: Exchange | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every image through the fixed steps, and the targets.

    Args:
        dataset: Read once, in order.
        fixed: What is done to each image.
        layout: As `find_layout` gives it.
        workers: Loader processes.
        progress: Show a progress bar, on a terminal.
        exchange: Where several processes decode the same at the same time: those of one machine then share the work
            and the memory.

    Returns:
        Bytes `[N, height, width, channels]`, padded with black, and class indices `[N]`.

    Raises:
        UserError: A broken image, one of another size, or more bytes than there is memory for; in all processes.
    """
    shared = share_memory(layout.nbytes + 8 * layout.count, exchange)
    targets = shared.memory[:8 * layout.count].view(torch.int64)
    images = shared.memory[8 * layout.count:].view(layout.shape)
    problem = None
    try:
        start, end = (layout.count * part // shared.parts for part in (shared.part, shared.part + 1))
        view = _OneSize(fixed_view(dataset, fixed), layout)
        _fill(images, targets, layout.padding, Subset(view, range(start, end)), start, workers, progress)
    except UserError as e:
        problem = last_line(e)
    raise_together(problem, exchange)
    return images, targets


def _fill(
        images: torch.Tensor,
        targets: torch.Tensor,
        padding: int,
        part: Dataset,
        start: int,
        workers: int,
        progress: bool,
) -> None:
    """Write a part of the data set where it belongs, from `start` on."""
    inner = images[:, padding:images.shape[1] - padding, padding:images.shape[2] - padding]
    loader = DataLoader(part, batch_size=64, **process_options(workers))
    with read_once(loader, 'decode', len(part), progress) as bar:
        for pixels, labels in loader:
            end = start + len(pixels)
            inner[start:end] = pixels.permute(0, 2, 3, 1)
            targets[start:end] = labels
            start = end
            bar.update(len(pixels))


class _OneSize(Dataset):
    """A data set whose images have to be as the layout says."""

    def __init__(self, dataset: LongTailedDataset, layout: Layout):
        self.dataset = dataset
        self.expected = layout.channels, layout.height, layout.width

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple:
        pixels, target = self.dataset[index]
        if pixels.shape != self.expected:
            name = self.dataset.filename(index) or f'number {index}'
            raise UserError(
                f'image {name} is {_described(pixels.shape)} and the first {_described(self.expected)}: images that '
                'stay in memory have one size; give one (--resident-size), or use --loader timm')
        return pixels, target


def _described(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f'{height}x{width} of {channels} channels'
