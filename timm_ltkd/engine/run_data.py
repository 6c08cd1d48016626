"""The data of a run: loaded as the options say, the same on all processes."""
import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data import (
    Splits,
    count_skipped,
    create_splits,
    fingerprint,
    hold_out,
    in_both,
    is_stream_name,
    published,
    skip_bad_images,
)
from ..errors import UserError, first_few
from ..prior import ClassPrior
from ..progress import told_if_slow
from ..report import data_profile
from .processes.launch import exchange, loader_workers

_logger = logging.getLogger(__name__)


class Data(NamedTuple):
    """The splits, the class prior of what is trained on, and a fingerprint of all splits."""
    splits: Splits
    prior: ClassPrior
    fingerprint: str


def load_data(args: Namespace, accelerator: Accelerator) -> Data:
    """Make the data sets that the options name."""
    check_data_folder(args)
    slow = partial(told_if_slow, f'still looking for the images and labels of {args.dataset or "folder"}')
    with _first(args, accelerator), slow():
        splits = create_splits(
            args.dataset, root=args.data_dir, train_split=args.train_split, val_split=args.val_split,
            class_map=args.class_map or None,  # timm's args.yaml has an empty one
            train_list=args.train_list, val_list=args.val_list, input_key=args.input_key,
            target_key=args.target_key, download=args.dataset_download, imbalance_factor=args.imbalance_factor,
            imbalance_type=args.imbalance_type, seed=args.imbalance_seed, max_per_class=args.max_per_class,
            class_counts=args.class_counts)
    if args.on_bad_image == 'skip':
        splits = _skip_bad_images(splits, args, accelerator)
    if args.val_list:
        splits.val[0]  # a path that leads nowhere is told now, not after an epoch; training images are read below
    if args.train_list and (both := in_both(splits)):
        _logger.warning(f'{len(both)} images are trained on, and measured on as well: {first_few(both)}')
    _warn_of_data(splits, args)
    if args.holdout:
        splits = _hold_out(splits, args)
    prior = ClassPrior(splits.train.class_counts, splits.class_names, many=args.many_shot, few=args.few_shot)
    with slow():
        key = fingerprint(splits)
    return same_data(Data(splits, prior, key), args)


def check_data_folder(args: Namespace) -> None:
    """Raise a UserError for a data folder of data that have none."""
    if args.data_dir and args.dataset.lower() == 'lt/digits':
        raise UserError('lt/digits has no data folder; for image folders add --dataset lt/folder (or folder)')


def same_data(data: Data, args: Namespace) -> Data:
    """The data, if all processes have found the same; else a UserError."""
    if len(set(gather_object([data.fingerprint]))) > 1:
        raise UserError(
            'the processes find different data: other files, or another order of classes; give all machines the same '
            f'{args.data_dir or "data"}')
    return data


@contextmanager
def _first(args: Namespace, accelerator: Accelerator) -> Iterator[None]:
    """One process goes first where the others find what it has done: downloaded a set, or counted a stream.

    After that of all machines, which may share a drive, comes one of each, which may not.
    """
    with ExitStack() as stack:
        if args.dataset_download:
            stack.enter_context(accelerator.main_process_first())
        if args.dataset_download or is_stream_name(args.dataset):
            stack.enter_context(accelerator.local_main_process_first())
        yield


def _skip_bad_images(splits: Splits, args: Namespace, accelerator: Accelerator) -> Splits:
    """Leave out the images that cannot be read, and tell how many they are."""
    splits = skip_bad_images(
        splits, workers=loader_workers(args.workers), rank=accelerator.process_index,
        world_size=accelerator.num_processes, exchange=exchange(accelerator),
        progress=accelerator.is_local_main_process)
    if splits.skipped:
        train, val = count_skipped(splits.skipped).values()
        _logger.warning(
            f'{train} training images and {val} to measure on cannot be read and are left out: '
            f'{first_few([image.file for image in splits.skipped])} ({splits.skipped[0].why})')
        if val:
            _logger.warning(
                f'figures are of the {len(splits.val)} images that are left, and not comparable with those of all '
                f'{len(splits.val) + val}')
    return splits


def _warn_of_data(splits: Splits, args: Namespace) -> None:
    """Warn of a data set that is not what its name says, or not to be measured in full."""
    whole = args.imbalance_factor is None and args.class_counts is None
    if whole and (mismatch := published.mismatch(args.dataset, splits.train.class_counts)):
        _logger.warning(mismatch)
    if remark := published.remark(args.dataset):
        _logger.warning(remark)
    warn_of_unmeasured(splits)


def warn_of_unmeasured(splits: Splits) -> None:
    """Say which classes have no image to measure on."""
    if unmeasured := [splits.class_names[c] for c in (splits.val.class_counts == 0).nonzero()[0]]:
        _logger.warning(
            f'{len(unmeasured)} of {len(splits.class_names)} classes have no validation image and are not measured: '
            f'{first_few(unmeasured)}')


def _hold_out(splits: Splits, args: Namespace) -> Splits:
    """Hold a part of the training images out, as the options say, and tell what became of it."""
    counts = splits.train.class_counts
    parted = hold_out(splits, args.holdout, args.holdout_type, seed=args.imbalance_seed)
    held = parted.holdout.class_counts
    _logger.info(
        f'holdout {args.holdout:g}, {args.holdout_type}: {held.sum()} of {counts.sum()} training images, '
        f'{held.min()} to {held.max()} of a class')
    if alone := [splits.class_names[c] for c in (held == 0).nonzero()[0]]:
        _logger.warning(
            f'classes with one training image keep it and are not measured on the holdout: {first_few(alone)}')
    return parted


def open_data(args: Namespace, accelerator: Accelerator) -> Data:
    """`load_data`, checked against --num-classes, and its profile told in the log."""
    data = load_data(args, accelerator)
    classes = data.prior.num_classes
    if getattr(args, 'num_classes', None) not in (None, classes):
        raise UserError(f'--num-classes {args.num_classes}: the data have {classes} classes; leave it out')
    if (workers := loader_workers(args.workers)) < args.workers:
        _logger.info(f'{workers} loader workers a process instead of {args.workers}: there are no more cores')
    _logger.info(f'{args.dataset or "folder"}: {data_profile(data.prior, data.splits.class_names)}')
    return data
