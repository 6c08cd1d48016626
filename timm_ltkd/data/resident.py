"""A data set that stays in memory as bytes: decoded once, then cut, flipped and normalised a batch at a time."""
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import psutil
import torch
from timm.data.transforms import MaybeToTensor
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm import tqdm

from ..errors import UserError
from .dataset import LongTailedDataset
from .sampler import EpochBatchSampler, ShardSampler
from .seeded import derive_seed

_FIXED = (transforms.Resize, transforms.CenterCrop)  # the same for an image whenever it is shown
_DRAWS = -2  # no image's index, so that these draws are nobody else's


@dataclass(frozen=True)
class Steps:
    """What a transform does, taken apart: once to each image, and anew whenever it is shown."""
    fixed: list
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: tuple[int, int] | None = None
    padding: int = 0
    hflip: float = 0.
    vflip: float = 0.


class Draws(NamedTuple):
    """What is drawn for a batch: top and left corner of the window in the padded image, and flips, each `[B]`."""
    top: torch.Tensor
    left: torch.Tensor
    hflip: torch.Tensor
    vflip: torch.Tensor


def take_apart(transform) -> Steps:
    """The steps of a transform, if resident images can go through them.

    They can resize and crop at the centre (once), pad and crop at random, flip, and normalise: what evaluation and the
    CIFAR recipe do.

    Args:
        transform: From `create_train_transform` or `create_eval_transform`.

    Raises:
        UserError: A step that is not among them, or not in this order; names it.
    """
    found, steps = dict(fixed=[]), list(getattr(transform, 'transforms', [transform]))
    expected = [
        (_FIXED, lambda step: found['fixed'].append(step)),
        (transforms.RandomCrop, lambda step: found.update(crop=tuple(step.size), padding=_padding(step))),
        (transforms.RandomHorizontalFlip, lambda step: found.update(hflip=step.p)),
        (transforms.RandomVerticalFlip, lambda step: found.update(vflip=step.p)),
        ((MaybeToTensor, transforms.ToTensor), lambda step: None),
        (transforms.Normalize, lambda step: found.update(mean=_floats(step.mean), std=_floats(step.std))),
    ]
    at = 0
    for step in steps:
        place = next((i for i in range(at, len(expected)) if isinstance(step, expected[i][0])), None)
        if place is None:
            raise UserError(
                f'resident images cannot go through {type(step).__name__}; use --loader timm, or leave it out')
        expected[place][1](step)
        at = place
    if 'mean' not in found:
        raise UserError('resident images must be normalised')
    return Steps(**found)


def _padding(step: transforms.RandomCrop) -> int:
    if not isinstance(step.padding or 0, int) or step.fill != 0 or step.padding_mode != 'constant':
        raise UserError('resident images are padded with black, by the same on each side')
    return step.padding or 0


def _floats(values) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


class ResidentImages:
    """All images of a data set as bytes, and what turns some of them into a batch.

    Given the same windows and flips, a batch is what the transform makes of the images, to the last bit on a CPU. The
    images are decoded when the first batch is asked for; they stay on `device` if a quarter of its memory holds them,
    else in that of the host, and batches then travel as bytes.

    Args:
        dataset: Read once, in order.
        transform: As `take_apart` takes it.
        workers: Loader processes that decode.
        device: Where batches are wanted.
        progress: Show a progress bar while decoding, on a terminal.

    Raises:
        UserError: As `take_apart`; on decoding a broken image, or more bytes than there is memory for.
    """

    def __init__(
            self,
            dataset: LongTailedDataset,
            transform,
            *,
            workers: int = 0,
            device: torch.device | str = 'cpu',
            progress: bool = False,
    ):
        self.steps = take_apart(transform)
        self.device = torch.device(device)
        self._dataset, self._workers, self._progress = dataset, workers, progress

    @cached_property
    def _decoded(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = _decode(self._dataset, self.steps, self._workers, self._progress)
        if self.device.type == 'cuda' and images.nbytes <= torch.cuda.mem_get_info(self.device)[1] / 4:
            images = images.to(self.device)
        return images, targets.to(self.device)

    @property
    def images(self) -> torch.Tensor:
        """Bytes `[N, height, width, 3]`, padded."""
        return self._decoded[0]

    @property
    def targets(self) -> torch.Tensor:
        """Class indices `[N]`, on `device`."""
        return self._decoded[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images of a batch."""
        return self.steps.crop or tuple(side - 2 * self.steps.padding for side in self.images.shape[1:3])

    @cached_property
    def _normalisation(self) -> list[torch.Tensor]:
        """Mean and standard deviation, repeated over a row of pixels `[W * 3]`: much faster than `[3]`."""
        return [torch.tensor(values).repeat(self.size[1]).to(self.device)
                for values in (self.steps.mean, self.steps.std)]

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, index: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Images at `index` `[B]`, float32 `[B, 3, H, W]` in channels_last layout, on `device`.

        Args:
            index: Positions in the data set, on the device that holds the images.
            draws: On the same device; without them the window is the image as it is stored, or its upper left corner.
        """
        cut = self._cut_on_host if self.images.device.type == 'cpu' else self._cut
        pixels = cut(index, draws)
        if self.device.type == 'cuda' and pixels.device.type == 'cpu':
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        rows = pixels.reshape(*pixels.shape[:2], -1).float()  # divided first, as torchvision does
        mean, std = self._normalisation
        rows = rows.div_(255).sub_(mean).div_(std)
        return rows.view(*pixels.shape).permute(0, 3, 1, 2)

    def draw(self, generator: torch.Generator) -> Draws:
        """Windows and flips for one showing of every image, each `[N]`, on the CPU."""
        count, steps = len(self), self.steps
        room = [side - cut + 1 for side, cut in zip(self.images.shape[1:3], self.size, strict=True)]
        top, left = (torch.randint(places, (count,), generator=generator) for places in room)
        hflip, vflip = (torch.rand(count, generator=generator) < p for p in (steps.hflip, steps.vflip))
        return Draws(top, left, hflip, vflip)

    def _cut(self, index: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        """Windows of the images, bytes `[B, H, W, 3]`, by indexing: a few kernels whatever the batch size."""
        if draws is None:
            return self.images[index, :self.size[0], :self.size[1]]
        rows, columns = (torch.arange(side, device=index.device) for side in self.size)
        rows = draws.top[:, None] + torch.where(draws.vflip[:, None], rows.flip(0), rows)
        columns = draws.left[:, None] + torch.where(draws.hflip[:, None], columns.flip(0), columns)
        return self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]

    def _cut_on_host(self, index: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        """The same by copying slices, which a CPU does about three times as fast."""
        images, (height, width) = self.images.numpy(), self.size
        cut = np.empty((len(index), height, width, 3), np.uint8)
        if draws is None:
            np.take(images[:, :height, :width], index.numpy(), axis=0, out=cut)
            return torch.from_numpy(cut)
        for place, (i, top, left, hflip, vflip) in enumerate(zip(
                index.tolist(), *(draw.tolist() for draw in draws), strict=True)):
            window = images[i, top:top + height, left:left + width]
            cut[place] = window[::-1 if vflip else 1, ::-1 if hflip else 1]
        return torch.from_numpy(cut)


def _decode(
        dataset: LongTailedDataset, steps: Steps, workers: int, progress: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Every image through the fixed steps, padded, bytes `[N, height, width, 3]`, and the targets `[N]`."""
    view = dataset.with_transform(transforms.Compose([*steps.fixed, transforms.PILToTensor()]))
    loader = DataLoader(view, batch_size=64, num_workers=workers, generator=torch.Generator())
    bar = tqdm(total=len(view), desc='decode', unit=' images', leave=False, disable=None if progress else True)
    images, targets, done = None, [], 0
    for pixels, target in loader:
        if images is None:
            images, inner = _room(len(view), pixels, steps.padding)
        inner[done:done + len(pixels)] = pixels.permute(0, 2, 3, 1)
        targets.append(target)
        done += len(pixels)
        bar.update(len(pixels))
    bar.close()
    return images, torch.cat(targets)


def _room(count: int, pixels: torch.Tensor, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Black bytes for `count` padded images like `pixels` `[B, 3, h, w]`, and the view of them without the padding."""
    _, channels, height, width = pixels.shape
    if channels != 3:
        raise UserError(f'resident images need 3 channels, not {channels}')
    shape = count, height + 2 * padding, width + 2 * padding, channels
    needed, free = math.prod(shape), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f'{count} images of {height}x{width} pixels take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory '
            'are free; use --loader timm')
    images = torch.zeros(shape, dtype=torch.uint8)
    return images, images[:, padding:padding + height, padding:padding + width]


class ResidentTrainLoader:
    """Shuffled, augmented batches of resident images; stands where the loader of `create_train_loader` does.

    What is drawn for an image depends on (seed, epoch, image, and how often it was shown before in the epoch) only:
    the distribution is that of the transform, the draws are others.

    Args:
        images: What to show.
        batch_sampler: Which of them, in which batch.
        seed: Any integer.
    """

    def __init__(self, images: ResidentImages, batch_sampler: EpochBatchSampler, *, seed: int):
        self.images = images
        self.batch_sampler = batch_sampler
        self.seed = seed

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        where = self.images.images.device
        shown = self.batch_sampler.shown()
        draws = Draws(*(draw.to(where) for draw in self._draws(shown.index, shown.before)))
        index = shown.index.to(where)
        targets = self.images.targets[shown.index.to(self.images.device)]
        start = 0
        for size in self.batch_sampler.batch_sizes():
            batch = slice(start, start + size)
            yield self.images.batch(index[batch], Draws(*(draw[batch] for draw in draws))), targets[batch]
            start += size

    def _draws(self, index: torch.Tensor, before: torch.Tensor) -> Draws:
        """For each showing of this process and epoch."""
        epoch, drawn = self.batch_sampler.epoch, None
        for again in range(int(before.max()) + 1):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, _DRAWS, again))
            fresh = [draw[index] for draw in self.images.draw(generator)]
            drawn = fresh if drawn is None else [
                torch.where(before == again, new, old) for new, old in zip(fresh, drawn, strict=True)]
        return Draws(*drawn)


class ResidentEvalLoader:
    """This rank's share of resident images, each once over all ranks, in order; stands where the loader of
    `create_eval_loader` does.

    Args:
        images: What to show.
        batch_size: Per process.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, images: ResidentImages, *, batch_size: int, rank: int = 0, world_size: int = 1):
        self.dataset = self.images = images
        self.batch_size = batch_size
        self.index = torch.tensor(list(ShardSampler(len(images), rank, world_size)), dtype=torch.int64)

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        images = self.images
        for index in self.index.to(images.images.device).split(self.batch_size):
            there = index.to(images.device)
            yield images.batch(index), images.targets[there], there
