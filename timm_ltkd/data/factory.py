"""`create_dataset`: timm's dataset factory, made long-tailed."""
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np

from ..errors import UserError, first_few, nearest, unknown_keyword
from .class_counts import given_class_counts
from .class_map import load_class_map
from .dataset import LongTailedDataset
from .digits import DIGITS_IMBALANCE_FACTOR
from .names import PREFIX, is_eval_split, is_long_tailed_name, is_train_split, plain_name
from .own import own_names
from .published import BY_COUNTS, SETS, imagenet_lt_counts, needs_list
from .selection import long_tail_counts, long_tail_indices
from .sources import create_whole, has_two_parts, torch_names
from .streams import StreamDataset, check_no_selection, create_stream, is_stream_name, warn_if_sorted

_SHORT_NAMES = {
    'digits': 'digits', 'cifar10': 'torch/cifar10', 'cifar100': 'torch/cifar100', 'tinyimagenet': 'tinyimagenet',
    BY_COUNTS: 'folder', **dict.fromkeys(SETS, 'list')}
_FOLDER_NAMES = ('', 'folder', 'image_folder', 'imagefolder', 'tar', 'image_tar', 'imagetar')
_KNOWN_NAMES = (
    'folder', 'list', 'torch/NAME', 'hfds/REPO', 'hfids/REPO', 'wds/NAME', 'lt/folder', 'lt/list', 'lt/torch/NAME',
    'lt/hfds/REPO', *(PREFIX + name for name in _SHORT_NAMES))


def create_dataset(
        name: str,
        root: str | os.PathLike | None = None,
        split: str = 'train',
        imbalance_factor: float | None = None,
        imbalance_type: str = 'exp',
        seed: int = 0,
        max_per_class: int | None = None,
        class_counts: Sequence[int] | np.ndarray | str | os.PathLike | None = None,
        class_map: dict | str | os.PathLike | None = None,
        list_file: str | os.PathLike | None = None,
        training: bool | None = None,
        **kwargs,
) -> LongTailedDataset | StreamDataset:
    """Make any dataset of timm, long-tailed where that is asked.

    Names: `lt/` and a name `timm.data.create_dataset` takes (`lt/torch/cifar100`, `lt/hfds/<repo or folder>`,
    `lt/folder` or `lt/` for image folders and tar files at `root`), `lt/list` for a list file, or one of `lt/digits`,
    `lt/cifar10`, `lt/cifar100`, `lt/tinyimagenet` (the folder tiny-imagenet-200), `lt/imagenet`, `lt/places365`,
    `lt/inat2018` (ImageNet-LT, Places-LT, iNaturalist 2018 by their published lists) and `lt/imagenet_by_counts`
    (ImageNet in class folders, as many images of each class as ImageNet-LT has); or `lt/` and what `register_dataset`
    made known. Without `lt/`, the whole set as timm has it. A stream (`hfids/<repo or folder>`, `wds/<any>`) cannot be
    indexed, so nothing is selected from it; see `create_stream`.

    Only the training split is ever selected from, and only if a factor or class counts are given or the set has its
    own (`lt/digits`: factor 50); evaluation splits are always whole.

    Args:
        name: See above.
        root: The data folder; for `hfds/` the cache folder.
        split: Of the data set. For folders, a folder or tar file below `root`, as timm looks for it.
        imbalance_factor: Largest class / smallest class, at least 1.
        imbalance_type: 'exp' or 'step', see `long_tail_counts`.
        seed: Of the selection.
        max_per_class: Images of the largest class; the size of the smallest class of the whole set by default, so
            that every class has its share.
        class_counts: Images to keep per class, [C], or a file of them (see `read_class_counts`), instead of a factor;
            of a stream, those it has.
        class_map: For folders, tar files, `hfds/` and streams: class index by name, or a file of names, as timm takes
            it. To lists it gives the names of their classes.
        list_file: Images and classes of this split (see `read_list`), where the name stands for a list.
        training: Whether it is the training split; by default its name tells (`train`, `train[:90%]`, `full/train`).
        **kwargs: For timm's factory and the dataset it makes (`download`, `input_key`, `transform`, ...).

    Raises:
        UserError: An unknown name or option, data that is missing or has no images, a split that is not there, a
            training class without an image, or a selection the data cannot give.
    """
    if not isinstance(name, str):
        raise UserError(
            f'create_dataset takes the name of a data set, got a {type(name).__name__}; LongTailedDataset(dataset) is '
            'one of your own with its labels at hand, and register_dataset gives it a name')
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    _check_list_file(name, list_file)
    if is_stream_name(name):
        check_no_selection(name, imbalance_factor, max_per_class, class_counts)
        class_map = load_class_map(class_map, root)
        with _telling_unknown(name, kwargs):
            stream = create_stream(name, root, split, class_counts=class_counts, class_map=class_map, **kwargs)
        if is_train_split(split) if training is None else training:
            _check_every_class(stream)
            warn_if_sorted(f"'{name}'", stream.classes_at_once, stream.class_counts)
        return stream
    selects = imbalance_factor is not None or max_per_class is not None or class_counts is not None
    if selects and not is_long_tailed_name(name):
        raise UserError(f"to make '{name}' long-tailed, write '{PREFIX}{name}'")
    base_name, by_counts = _resolve_name(name), name.lower() == PREFIX + BY_COUNTS
    if by_counts and selects:
        raise UserError(f"'{name}' has class counts of its own; for others take {PREFIX}folder")
    if base_name == 'digits' and imbalance_factor is None and class_counts is None:
        imbalance_factor = DIGITS_IMBALANCE_FACTOR
    if max_per_class is not None and imbalance_factor is None:
        raise UserError('max_per_class goes with an imbalance factor; 1 keeps as many of every class')
    if class_counts is not None and imbalance_factor is not None:
        raise UserError('give either an imbalance factor or class counts, not both')

    if training is None:
        training = is_train_split(split)
        if (selects or by_counts) and not training and not is_eval_split(split):
            raise UserError(
                f"the name '{split}' does not tell whether it is to train on, and only such splits are made "
                'long-tailed: say training=True, or training=False')
    with _telling_unknown(name, kwargs):
        base = create_whole(base_name, root, split, training, class_map, list_file, kwargs)
    dataset = base if isinstance(base, LongTailedDataset) else LongTailedDataset(base)
    if not training:
        return dataset
    _check_every_class(dataset)
    if imbalance_factor is not None:
        largest = dataset.class_counts.min() if max_per_class is None else max_per_class
        class_counts = long_tail_counts(len(dataset.class_names), int(largest), imbalance_factor, imbalance_type)
    if by_counts:
        class_counts = imagenet_lt_counts(dataset.class_names)
    if class_counts is None:
        return dataset
    counts = given_class_counts(class_counts, dataset.class_names, f"'{name}'")
    return dataset.subset(long_tail_indices(dataset.targets, counts, seed, class_names=dataset.class_names))


@contextmanager
def _telling_unknown(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Inside, one of the options that nobody takes is a UserError with the nearest of `create_dataset`'s own."""
    try:
        yield
    except TypeError as e:
        if (keyword := unknown_keyword(e)) not in options:
            raise
        own = [key for key in inspect.signature(create_dataset).parameters if key not in ('name', 'kwargs')]
        raise UserError(f"'{name}' has no option '{keyword}'{nearest(keyword, own)}") from e


def published_split(name: str, split: str) -> str:
    """A split as whoever made the set calls it: `test` of CIFAR and others of two parts, but for that to train on; of a
    folder that lies elsewhere it is the name alone.

    Args:
        name, split: As `create_dataset`, which takes them.
    """
    two = not is_stream_name(name) and has_two_parts(_resolve_name(name))
    if two and not is_train_split(split):
        return 'test'
    path = PurePath(split)
    return path.name if path.is_absolute() or '..' in path.parts else split


def _check_list_file(name: str, list_file) -> None:
    """Whether there is a list exactly where the name calls for one."""
    known = {'list': None, PREFIX + 'list': None, **{PREFIX + short: short for short in SETS}}
    if list_file is not None and name.lower() not in known:
        raise UserError(f"'{name}' takes no list file; these do: {', '.join(known)}")
    if list_file is None and name.lower() in known:
        short = known[name.lower()]
        raise needs_list(short) if short else UserError(f"'{name}' needs a list file: --train-list FILE")


def _resolve_name(name: str) -> str:
    """What a name stands for, without `lt/`: 'digits', 'tinyimagenet', 'folder', 'list', 'torch/...', 'hfds/...' or
    'own/...' (the rest as it was)."""
    prefix, slash, rest = plain_name(name).partition('/')
    prefix = prefix.lower()
    if not slash:
        if plain_name(name) in own_names() and prefix in (*_FOLDER_NAMES, 'list', *_SHORT_NAMES):
            raise UserError(f"'{PREFIX}{prefix}' is the name of another data set; register yours under one of its own")
        if prefix in _FOLDER_NAMES:
            return 'folder'
        if prefix == 'list':
            return 'list'
        if is_long_tailed_name(name) and prefix in _SHORT_NAMES:
            return _SHORT_NAMES[prefix]
        if is_long_tailed_name(name) and plain_name(name) in own_names():
            return f'own/{plain_name(name)}'
    elif prefix == 'hfds' and rest:
        return f'{prefix}/{rest}'
    elif prefix == 'torch' and rest.lower() in torch_names():
        return f'{prefix}/{rest.lower()}'
    elif prefix == 'tfds':
        raise UserError(f"'{name}' is a stream that is not read here; use hfds/, hfids/, wds/ or image folders")
    known = [f'torch/{known}' for known in torch_names()] if prefix == 'torch' else [
        *_KNOWN_NAMES, *(PREFIX + own for own in own_names())]
    own = '' if slash and not is_long_tailed_name(name) else '; or one of your own, see timm_ltkd.register_dataset'
    raise UserError(f"unknown dataset '{name}'{nearest(name, known)}{own}")


def _check_every_class(dataset: LongTailedDataset | StreamDataset) -> None:
    empty = np.flatnonzero(dataset.class_counts == 0)
    if empty.size or not dataset.class_counts.any():
        names = first_few([f"'{dataset.class_names[c]}' (index {c})" for c in empty]) or 'of this set'
        hint = ' (labels count from 0; if these count from 1, subtract 1)' if empty[:1].tolist() == [0] else ''
        raise UserError(f'no training image for class {names}; every class needs at least one{hint}')
