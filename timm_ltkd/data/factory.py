"""`create_dataset`: timm's dataset factory, made long-tailed."""
import os
from collections.abc import Sequence
from numbers import Integral
from pickle import UnpicklingError
from tarfile import TarError

import numpy as np
import timm.data
from timm.data import dataset_factory
from timm.data.readers import get_img_extensions
from timm.data.readers.class_map import load_class_map

from ..errors import UserError, last_line, nearest
from .dataset import LongTailedDataset
from .digits import DIGITS_IMBALANCE_FACTOR, DigitsDataset
from .folders import EVAL_SPLITS, TRAIN_SPLITS, check_class_folders, find_split, is_train_split
from .selection import long_tail_counts, long_tail_indices, read_class_counts

_PREFIX = 'lt/'
_SHORT_NAMES = {'digits': 'digits', 'cifar10': 'torch/cifar10', 'cifar100': 'torch/cifar100'}
_FOLDER_NAMES = ('', 'folder', 'image_folder', 'imagefolder', 'tar', 'image_tar', 'imagetar')
_KNOWN_NAMES = (
    'folder', 'torch/NAME', 'hfds/REPO', 'lt/folder', 'lt/torch/NAME', 'lt/hfds/REPO',
    *(_PREFIX + name for name in _SHORT_NAMES))
_ITERABLE_PREFIXES = ('hfids', 'tfds', 'wds')
_OTHER_TORCH_NAMES = ('folder', 'image_folder', 'imagenet', 'inat', 'inaturalist', 'places365', 'qmnist')


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
        **kwargs,
) -> LongTailedDataset:
    """Make any map-style dataset of timm, long-tailed where that is asked.

    Names: `lt/` and a name `timm.data.create_dataset` takes (`lt/torch/cifar100`, `lt/hfds/<repo or folder>`,
    `lt/folder` or `lt/` for image folders and tar files at `root`), or one of `lt/cifar10`, `lt/cifar100`,
    `lt/digits`. Without `lt/`, the whole set as timm has it.

    Only the training split is ever selected from, and only if a factor or class counts are given or the set has a
    factor of its own (`lt/digits`: 50); evaluation splits are always whole.

    Args:
        name: See above.
        root: The data folder; for `hfds/` the cache folder.
        split: Of the data set. For folders, a folder or tar file below `root`, as timm looks for it.
        imbalance_factor: Largest class / smallest class, at least 1.
        imbalance_type: 'exp' or 'step', see `long_tail_counts`.
        seed: Of the selection.
        max_per_class: Images of the largest class; the size of the smallest class of the whole set by default, so
            that every class has its share.
        class_counts: Images to keep per class, [C], or a file of them (see `read_class_counts`), instead of a factor.
        class_map: For folders, tar files and `hfds/`: class index by name, or a file of names, as timm takes it.
        **kwargs: For timm's factory and the dataset it makes (`download`, `input_key`, `transform`, ...).

    Raises:
        UserError: An unknown name, data that is missing or has no images, a split that is not there, a training
            class without an image, or a selection the data cannot give.
    """
    selects = imbalance_factor is not None or max_per_class is not None or class_counts is not None
    long_tailed = name.lower().startswith(_PREFIX)
    if selects and not long_tailed:
        raise UserError(f"to make '{name}' long-tailed, write '{_PREFIX}{name}'")
    base_name = _resolve_name(name)
    if base_name == 'digits' and imbalance_factor is None and class_counts is None:
        imbalance_factor = DIGITS_IMBALANCE_FACTOR
    if max_per_class is not None and imbalance_factor is None:
        raise UserError('max_per_class goes with an imbalance factor; 1 keeps as many of every class')
    if class_counts is not None and imbalance_factor is not None:
        raise UserError('give either an imbalance factor or class counts, not both')

    dataset = _create_whole(base_name, root, split, class_map, kwargs)
    if not is_train_split(split):
        return dataset
    _check_every_class(dataset)
    if imbalance_factor is not None:
        largest = dataset.class_counts.min() if max_per_class is None else max_per_class
        class_counts = long_tail_counts(len(dataset.class_names), int(largest), imbalance_factor, imbalance_type)
    if class_counts is None:
        return dataset
    counts = _checked_counts(class_counts, dataset)
    return dataset.subset(long_tail_indices(dataset.targets, counts, seed, class_names=dataset.class_names))


def _resolve_name(name: str) -> str:
    """What a name stands for, without `lt/`: 'digits', 'folder', 'torch/...' or 'hfds/...' (the rest as it was)."""
    long_tailed = name.lower().startswith(_PREFIX)
    prefix, slash, rest = (name[len(_PREFIX):] if long_tailed else name).partition('/')
    prefix = prefix.lower()
    if not slash:
        if prefix in _FOLDER_NAMES:
            return 'folder'
        if long_tailed and prefix in _SHORT_NAMES:
            return _SHORT_NAMES[prefix]
    elif prefix == 'hfds' and rest:
        return f'{prefix}/{rest}'
    elif prefix == 'torch' and rest.lower() in _torch_names():
        return f'{prefix}/{rest.lower()}'
    elif prefix in _ITERABLE_PREFIXES:
        raise UserError(f"'{name}' is an iterable dataset, its labels cannot be read ahead; use hfds/ or image folders")
    known = [f'torch/{known}' for known in _torch_names()] if prefix == 'torch' else _KNOWN_NAMES
    raise UserError(f"unknown dataset '{name}'{nearest(name, known)}")


def _torch_names() -> list[str]:
    return [*getattr(dataset_factory, '_TORCH_BASIC_DS', ()), *_OTHER_TORCH_NAMES]


def _create_whole(name: str, root, split: str, class_map, kwargs: dict) -> LongTailedDataset:
    """The whole split, with errors that say what to do."""
    if name == 'digits' or name.startswith('torch/'):
        if class_map is not None:
            raise UserError(f"'{name}' has its own classes; a class map is for folders, tar files and hfds/")
        base = _create_digits(split, **kwargs) if name == 'digits' else _create_torch(name, root, split, kwargs)
    elif name.startswith('hfds/'):
        base = _create_hfds(name, root, split, _load_class_map(class_map, root), kwargs)
    else:
        base = _create_folder(root, split, _load_class_map(class_map, root), kwargs)
    return base if isinstance(base, LongTailedDataset) else LongTailedDataset(base)


def _create_digits(split: str, download: bool = False, **kwargs) -> DigitsDataset:
    """`download` may be given as for any other set; there is nothing to fetch."""
    _check_two_parts('digits', split)
    return DigitsDataset(train=is_train_split(split), **kwargs)


def _check_two_parts(name: str, split: str) -> None:
    known = (*TRAIN_SPLITS, *EVAL_SPLITS, 'test')
    if split not in known:
        raise UserError(f"'{name}' has no split '{split}'{nearest(split, known)}")


def _create_torch(name: str, root, split: str, kwargs: dict):
    if root is None:
        raise UserError(f"'{name}' needs a data folder (root, --data-dir)")
    download = kwargs.get('download', False)
    if not download and not os.path.isdir(root):
        raise UserError(f"the data folder '{root}' does not exist; --dataset-download fetches the data")
    kind = name.split('/')[1]
    if kind in getattr(dataset_factory, '_TORCH_BASIC_DS', ()):
        _check_two_parts(name, split)  # timm would take any other name for the test set
    elif kind in ('folder', 'image_folder'):
        root = find_split(root, split)
    try:
        return timm.data.create_dataset(name, root=str(root), split=split, search_split=False, **kwargs)
    except (RuntimeError, OSError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        hint = '' if download else '; if it is not there yet, fetch it with --dataset-download'
        raise UserError(f"cannot read '{name}' from '{root}': {last_line(e)}{hint}") from e


def _create_hfds(name: str, root, split: str, class_map: dict | None, kwargs: dict):
    try:
        return timm.data.create_dataset(
            name, root=None if root is None else str(root), split=split, class_map=class_map, **kwargs)
    except ImportError as e:
        raise UserError(f"'{name}' needs the package datasets: pip install datasets ({last_line(e)})") from e
    except AttributeError as e:  # timm before it took a label column of plain integers
        raise UserError(f"this timm reads '{name}' only with named classes or a class map; update timm") from e
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise UserError(f"cannot read split '{split}' of '{name}': {last_line(e)}") from e


def _create_folder(root, split: str, class_map: dict | None, kwargs: dict):
    if root is None:
        raise UserError('image folders need a data folder (root, --data-dir)')
    path = find_split(root, split)
    tar = os.path.isfile(path)
    if tar and not path.endswith('.tar'):
        raise UserError(f"'{path}' is neither a folder nor a tar file")
    # an open tar file can neither be pickled nor shared with forked workers, so it is opened for each image
    reader_options = dict(cache_tarfiles=False) if tar else {}
    try:
        base = timm.data.create_dataset(
            'folder', root=path, search_split=False, class_map=class_map, **reader_options, **kwargs)
    except (RuntimeError, ValueError) as e:  # ValueError: timm's way to say it of a tar file
        raise UserError(f"no images ({' '.join(get_img_extensions())}) in the classes of '{path}'") from e
    except (OSError, TarError) as e:
        raise UserError(f"cannot read '{path}': {last_line(e)}") from e
    if class_map is None and is_train_split(split):
        check_class_folders(base, path)
    return base


def _load_class_map(class_map, root) -> dict | None:
    if class_map is None:
        return None
    try:
        loaded = load_class_map(class_map if isinstance(class_map, dict) else os.fspath(class_map), str(root or ''))
    except (AssertionError, OSError, ValueError, UnpicklingError) as e:
        raise UserError(f"cannot read the class map '{class_map}': {last_line(e)}") from e
    if not loaded or not all(isinstance(index, Integral) and index >= 0 for index in loaded.values()):
        raise UserError('a class map must give a class index (0, 1, ...) for every name')
    return loaded


def _check_every_class(dataset: LongTailedDataset) -> None:
    empty = np.flatnonzero(dataset.class_counts == 0)
    if empty.size or not len(dataset):
        names = ', '.join(f"'{dataset.class_names[c]}' (index {c})" for c in empty[:5]) or 'of this set'
        more = f' and {empty.size - 5} more' if empty.size > 5 else ''
        raise UserError(f'no training image for class {names}{more}; every class needs at least one')


def _checked_counts(class_counts, dataset: LongTailedDataset) -> np.ndarray:
    in_file = isinstance(class_counts, str | os.PathLike)
    counts = read_class_counts(class_counts) if in_file else np.asarray(class_counts)
    if counts.shape != (len(dataset.class_names),):
        raise UserError(f'{counts.size} class counts are given for {len(dataset.class_names)} classes')
    if (counts < 1).any():
        c = int(np.argmax(counts < 1))
        raise UserError(f"class '{dataset.class_names[c]}' (index {c}) would keep {counts[c]} images; 1 is the least")
    return counts
