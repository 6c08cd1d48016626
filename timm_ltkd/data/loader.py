"""Loaders for training and evaluation: what turns a dataset and a transform into batches."""
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .class_sampling import epoch_order
from .dataset import LongTailedDataset
from .device import DeviceLoader, split_normalisation
from .resident import ResidentEvalLoader, ResidentImages, ResidentTrainLoader, take_apart
from .sampler import EpochBatchSampler, ShardSampler
from .seeded import SeededDataset
from .streams import EvalStream, StreamDataset, TrainStream
from .views import TwoViews
from .workers import process_options


def create_train_loader(
        dataset: Dataset,
        transform,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        class_sampling: str = 'instance',
        epochs: int = 1,
        images: ResidentImages | None = None,
        stored_views: int | None = None,
        batches_per_update: int = 1,
        device: torch.device | None = None,
) -> DataLoader | ResidentTrainLoader:
    """Shuffled, augmented batches whose pixels depend on (seed, epoch, sample) only.

    With `stored_views` V an image has no more than V different augmentations: that of its showing number `again` (from
    0) in an epoch is the one numbered (epoch + again) mod V, which depends on (seed, this number, sample).

    Call `epoch_plan(loader).set_epoch(epoch)` before each epoch.

    Args:
        dataset: A `LongTailedDataset`, one that can be made one, or a `StreamDataset` (see `TrainStream`); left as it
            is, its transform too.
        transform: From an image to a tensor, or None.
        batch_size: Per process.
        seed: Of order and augmentation.
        rank: Of this process.
        world_size: Number of processes.
        workers: Loader processes; 0 loads in this one. They persist from epoch to epoch.
        pin_memory: Page-locked batches, for copies to an accelerator.
        class_sampling: How often each class is shown, one of `CLASS_SAMPLINGS`.
        epochs: How many there will be, for `progressive` sampling.
        images: Those of the data set, kept in memory and augmented alike, to make batches of; no workers then, and
            batches where `images` makes them.
        stored_views: V; any number of augmentations if None.
        batches_per_update: More than 1 where gradients are accumulated; of a stream it does not matter.
        device: Batches that come from workers are put there; their pixels travel as bytes, and are normalised there.
            None leaves them on the CPU, as workers made them.

    Returns:
        A loader of (float [B, channels, H, W], int64 [B]), of the same length on every rank.

    Raises:
        UserError: Class sampling or stored views of a stream; `images` of another data set.
    """
    if isinstance(dataset, StreamDataset):
        _check_sampling(dataset, class_sampling)
        if stored_views is not None:
            raise UserError(f"'{dataset.shards.name}' is a stream: its views cannot be stored; use hfds/ or folders")
        options = dict(batch_size=batch_size, **process_options(workers, pin_memory))
        return _of_workers(dataset, transform, device, options, lambda stream: TrainStream(
            stream, batch_size, seed=seed, rank=rank, world_size=world_size))
    view = _view(dataset, transform)
    order = partial(epoch_order, view.targets, class_sampling, seed=seed, epochs=epochs)
    sampler = EpochBatchSampler(
        len(view), batch_size, seed=seed, rank=rank, world_size=world_size, order=order, stored_views=stored_views,
        batches_per_update=batches_per_update)
    if images is not None:
        _check_same(images, view)
        return ResidentTrainLoader(images, sampler, seed=seed)
    options = dict(batch_sampler=sampler, **process_options(workers, pin_memory))
    return _of_workers(view, transform, device, options, lambda images: SeededDataset(images, seed))


def create_eval_loader(
        dataset: Dataset,
        transform,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        images: ResidentImages | None = None,
        device: torch.device | None = None,
) -> DataLoader | ResidentEvalLoader:
    """Batches of this rank's share of the images, each image once over all ranks, in order.

    Args: As `create_train_loader`.

    Returns:
        A loader of (float [B, channels, H, W], int64 [B], int64 [B]); the last is the position in `dataset`. A rank may
        get one image, or one batch, less than another.
    """
    options = dict(batch_size=batch_size, **process_options(workers, pin_memory))
    if isinstance(dataset, StreamDataset):
        return _of_workers(
            dataset, transform, device, options, lambda stream: EvalStream(stream, rank=rank, world_size=world_size))
    if images is not None:
        _check_same(images, dataset)
        return ResidentEvalLoader(images, batch_size=batch_size, rank=rank, world_size=world_size)
    options['sampler'] = ShardSampler(len(dataset), rank, world_size)
    return _of_workers(dataset, transform, device, options, _IndexedDataset)


def epoch_plan(loader: DataLoader) -> EpochBatchSampler | TrainStream:
    """What decides which images a training loader shows: its `set_epoch(epoch)`, `batch_sizes()` and `repeats`."""
    dataset = getattr(loader, 'dataset', None)
    return dataset if isinstance(dataset, TrainStream) else loader.batch_sampler


def views_per_image(loader: DataLoader | ResidentTrainLoader) -> int | None:
    """How many different views of an image a training loader can show; None if they cannot be numbered.

    They can with `stored_views`; without augmentation, there being one; and of resident images whose crops are whole
    numbers of pixels: places × 2 with horizontal flips × 2 with vertical ones.
    """
    plan = epoch_plan(loader)
    if isinstance(plan, TrainStream):
        return None
    if plan.stored_views is not None:
        return plan.stored_views
    if isinstance(loader, ResidentTrainLoader):
        return loader.images.views
    return 1 if _never_changes(loader.dataset.dataset.transform) else None


def epoch_views(loader: DataLoader | ResidentTrainLoader) -> torch.Tensor:
    """What a training loader shows in the epoch it is set to, exactly: one number for each image and view.

    Returns:
        `index * views_per_image(loader) + view` of each showing of this process, in order, int64 [M], on the CPU. Two
        showings of the same number are the same pixels; which number is which pixels depends on the transform, with
        `stored_views` also on the seed.

    Raises:
        UserError: `views_per_image` is None.
    """
    views, plan = views_per_image(loader), epoch_plan(loader)
    if views is None:
        raise UserError('the views of this loader cannot be numbered; give it stored_views')
    if plan.stored_views is None and isinstance(loader, ResidentTrainLoader):
        rows = loader.rows()
        return rows[:, 0] * views + loader.images.view_numbers(rows)
    index, epoch, _ = plan.shown()
    return index * views + (0 if plan.stored_views is None else epoch)


def _never_changes(transform) -> bool:
    """Whether a transform is known to make the same of an image whenever it is called."""
    if isinstance(transform, TwoViews):
        return _never_changes(transform.student) and _never_changes(transform.teacher)
    try:
        return transform is None or not take_apart(transform).random
    except UserError:
        return False


class _IndexedDataset(Dataset):
    """(image, target) -> (image, target, index)."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        return *self.dataset[index], index


def _of_workers(
        dataset: Dataset,
        transform,
        device: torch.device | None,
        options: dict[str, Any],
        read: Callable[[Any], Dataset],
) -> DataLoader:
    """Batches that worker processes make.

    Args:
        dataset: Of images.
        transform: What is done to them.
        device: Where batches go, to be normalised there; None leaves all to the workers.
        options: Of `DataLoader`.
        read: From the images under a transform to what workers read of them.
    """
    of_image, of_batch = (transform, None) if device is None else split_normalisation(transform)
    images = read(_view(dataset, of_image))
    if device is None:
        return DataLoader(images, **options)
    return DeviceLoader(images, device, of_batch, **options)


def _view(dataset: Dataset, transform) -> LongTailedDataset | StreamDataset:
    """The dataset with this transform, while the one given, which others may read, keeps its own."""
    labelled = dataset if isinstance(dataset, LongTailedDataset | StreamDataset) else LongTailedDataset(dataset)
    return labelled.with_transform(transform)


def _check_sampling(stream: StreamDataset, class_sampling: str) -> None:
    if class_sampling != 'instance':
        raise UserError(
            f"class sampling '{class_sampling}' (a second stage has 'class') picks images by index, and "
            f"'{stream.shards.name}' is a stream that has none; use hfds/ or image folders, or instance sampling")


def _check_same(images: ResidentImages, dataset: Dataset) -> None:
    if len(images) != len(dataset):
        raise UserError(f'there are {len(images)} resident images, and {len(dataset)} in the data set')
