"""Images that cannot be read: found before training begins, and left out of what is trained and measured on."""
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError, last_line
from .dataset import LongTailedDataset
from .resident import Exchange
from .sampler import ShardSampler
from .splits import SkippedImage, Splits
from .streams import StreamDataset, StreamScan, without_images
from .workers import process_options, read_once


class _Bad(NamedTuple):
    """Where a bad image is (position; shard and position in it), its name, and what is wrong with it."""
    place: tuple[int, ...]
    name: str
    why: str


def skip_bad_images(
        splits: Splits,
        *,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        exchange: Exchange | None = None,
        progress: bool = False,
) -> Splits:
    """The same splits without the images that cannot be decoded, which are listed in `skipped`.

    Every image is decoded once, each by one of the processes. What is left are data sets like any other: class counts,
    prior, holdout, and the numbers of images are those of the images that are there.

    Args:
        splits: Without a holdout yet.
        workers: Loader processes that decode.
        rank: Of this process.
        world_size: Number of processes.
        exchange: Between several processes.
        progress: Show a progress bar, on a terminal.

    Raises:
        UserError: A training class of which no image is left, or nothing to measure on.
    """
    def checked(part: LongTailedDataset | StreamDataset, split: str):
        bad = _find_bad(part, f'{split} images', workers, rank, world_size, progress)
        if exchange is not None:
            bad = [one for found in exchange(bad) for one in found]
        bad = sorted(bad)
        return _without(part, [one.place for one in bad]), [SkippedImage(split, one.name, one.why) for one in bad]

    train, bad_train = checked(splits.train, 'train')
    val, bad_val = checked(splits.val, 'val')
    empty = np.flatnonzero((splits.train.class_counts > 0) & (train.class_counts == 0))
    if empty.size:
        name = splits.class_names[empty[0]]
        raise UserError(f"no training image of class '{name}' can be read; repair them, or remove the class")
    if not len(val):
        raise UserError('none of the images to measure on can be read; repair them')
    return replace(splits, train=train, val=val, skipped=(*bad_train, *bad_val))


def _find_bad(
        dataset: LongTailedDataset | StreamDataset,
        what: str,
        workers: int,
        rank: int,
        world_size: int,
        progress: bool,
) -> list[_Bad]:
    """Those in this process's share of the images."""
    raw = dataset.with_transform(None)
    options = dict(batch_size=32, collate_fn=list, **process_options(workers))
    if isinstance(raw, StreamDataset):
        loader = DataLoader(StreamScan(raw, rank=rank, world_size=world_size), **options)
    else:
        loader = DataLoader(_Checks(raw), sampler=ShardSampler(len(raw), rank, world_size), **options)
    bad = []
    with read_once(loader, f'checking {what}', -(-len(raw) // world_size), progress) as bar:
        for batch in loader:
            bad += [_Bad(*found) for found in batch if found is not None]
            bar.update(len(batch))
    return bad


class _Checks(Dataset):
    """Instead of each image what is wrong with it, or None."""

    def __init__(self, dataset: LongTailedDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[tuple[int], str, str] | None:
        try:
            self.dataset[index]
        except UserError as e:
            return (index,), self.dataset.filename(index) or f'image {index}', last_line(e)
        return None


def _without(
        dataset: LongTailedDataset | StreamDataset, places: Sequence[tuple[int, ...]],
) -> LongTailedDataset | StreamDataset:
    if not places:
        return dataset
    if isinstance(dataset, StreamDataset):
        return without_images(dataset, places)
    return dataset.subset(np.delete(np.arange(len(dataset)), [index for index, in places]))


def count_skipped(skipped: Iterable[SkippedImage]) -> dict[str, int]:
    """How many images of each split were left out, `{'train': ..., 'val': ...}`."""
    names = [image.split for image in skipped]
    return {name: names.count(name) for name in ('train', 'val')}
