"""What a run is made of: its data, and a key that tells equal runs from different ones."""
import hashlib
import json
import logging
from argparse import Namespace
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data import (
    Splits,
    count_skipped,
    create_splits,
    fingerprint,
    hold_out,
    is_stream_name,
    published,
    skip_bad_images,
)
from ..errors import UserError, first_few
from ..options import DATA, MANNER, PLACE, listed
from ..prior import ClassPrior
from ..report import data_profile
from .own_code import own_code
from .processes.launch import exchange, loader_workers

_logger = logging.getLogger(__name__)

# options that do not change the weights that come out, but by data and teachers (whose fingerprint and keys count)
NO_PART = PLACE | MANNER | DATA | {
    'import', 'seeds', 'val_interval', 'eval_metric', 'crop_pct', 'interpolation', 'batch_size', 'grad_accum_steps',
    'teacher_checkpoint', 'teacher_config', 'teacher_pretrained', 'teacher_seed', 'teacher_tune', 'teacher_class_map',
    'teacher_small_image_stem', 'teacher_bank', 'bank_features',
}


# options that say which training images are held out
_SELECTION = (
    'train_split', 'imbalance_factor', 'imbalance_type', 'imbalance_seed', 'max_per_class', 'holdout', 'holdout_type')


class Data(NamedTuple):
    """The splits, the class prior of what is trained on, and a fingerprint of all splits."""
    splits: Splits
    prior: ClassPrior
    fingerprint: str


def load_data(args: Namespace, accelerator: Accelerator) -> Data:
    """Make the data sets that the options name."""
    check_data_folder(args)

    def load():
        return create_splits(
            args.dataset,
            root=args.data_dir,
            train_split=args.train_split,
            val_split=args.val_split,
            class_map=args.class_map,
            train_list=args.train_list,
            val_list=args.val_list,
            input_key=args.input_key,
            target_key=args.target_key,
            download=args.dataset_download,
            imbalance_factor=args.imbalance_factor,
            imbalance_type=args.imbalance_type,
            seed=args.imbalance_seed,
            max_per_class=args.max_per_class,
            class_counts=args.class_counts,
        )
    with _first(args, accelerator):
        splits = load()
    if args.on_bad_image == 'skip':
        splits = _skip_bad_images(splits, args, accelerator)
    if args.val_list:
        splits.val[0]  # a path that leads nowhere is told now, not after an epoch; training images are read below
    _warn_of_data(splits, args)
    if args.holdout:
        splits = _hold_out(splits, args)
    prior = ClassPrior(splits.train.class_counts, splits.class_names, many=args.many_shot, few=args.few_shot)
    return same_data(Data(splits, prior, fingerprint(splits)), args)


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


def _first(args: Namespace, accelerator: Accelerator) -> AbstractContextManager:
    """One process goes first where the others find what it has done: downloaded a set, or counted a stream."""
    if args.dataset_download:
        return accelerator.main_process_first()
    return accelerator.local_main_process_first() if is_stream_name(args.dataset) else nullcontext()


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


def holdout_is_unseen(source: str, args: Namespace, data: Data) -> bool | None:
    """Whether a run was trained on the same training images as these, without the held-out ones.

    And the run whose weights it began with, if it was a second stage, and so on.

    Args:
        source: Its folder, or a file in it.
        args: What selects the images.
        data: These.

    Returns:
        None where one of them is no finished run of ours, and nobody can tell.
    """
    looked_at = set()
    while source and source not in looked_at:
        looked_at.add(source)
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        try:
            options = json.loads((folder / 'report.json').read_text(encoding='utf-8'))['run']['args']
            counts = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['class_counts']
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if counts != [int(count) for count in data.prior.counts] or any(
                options.get(key) != getattr(args, key) for key in _SELECTION):
            return False
        source = options.get('initial_checkpoint')
    return True


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


def recipe_key(args: Namespace, data: Data, accelerator: Accelerator, teachers: Sequence[str] = ()) -> str:
    """16 hex digits that are equal for runs that give the same weights, and differ otherwise.

    The same global batch from more processes or accumulation counts as the same recipe.

    Args:
        args: Options of the run.
        data: What it trains on.
        accelerator: Precision and processes.
        teachers: What identifies each teacher: its own recipe key, or `file_key` of its weights.
    """
    recipe = {key: value for key, value in vars(args).items() if key not in NO_PART}
    if not recipe.get('grad_checkpointing'):  # runs from before there was this option go on
        recipe.pop('grad_checkpointing', None)
    recipe['teachers'] = list(teachers)
    if code := own_code(args, listed(getattr(args, 'kd', None))):
        recipe['own_code'] = code
    recipe |= {key: _by_content(recipe[key]) for key in ('model', 'student', 'teacher') if key in recipe}
    if recipe.get('initial_checkpoint'):
        recipe['initial_checkpoint'] = file_key(recipe['initial_checkpoint'])
    if args.holdout or args.sched == 'plateau':  # evaluation chooses the epoch, or the learning rate
        recipe |= {'chosen_by': args.eval_metric, 'chosen_every': args.val_interval}
        if args.eval_metric == 'few':
            recipe['few_shot'] = args.few_shot
    if args.holdout or args.sched == 'plateau' or teachers:  # which class means are taken with as well
        recipe['evaluated_as'] = [args.crop_pct, args.interpolation]
    recipe['global_batch'] = global_batch(args, accelerator)
    recipe['precision'] = str(accelerator.mixed_precision)
    recipe['data'] = data.fingerprint
    text = json.dumps(recipe, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _by_content(name: str | list[str]) -> str | list[str]:
    """Names of networks, where those of a folder count by its weights, wherever it lies."""
    if isinstance(name, list):
        return [_by_content(one) for one in name]
    return file_key(name) if name.startswith('local-dir:') else name


def file_key(source: str) -> str:
    """SHA-256 of a file of weights, or of those in a run's folder; the name itself of weights on the hub."""
    path = Path(source.removeprefix('local-dir:'))
    path = path / 'model.safetensors' if path.is_dir() else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source


def global_batch(args: Namespace, accelerator: Accelerator) -> int:
    """Images of one update over all processes."""
    return args.batch_size * args.grad_accum_steps * accelerator.num_processes
