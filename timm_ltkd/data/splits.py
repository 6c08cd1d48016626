"""Training and validation data under one class map."""
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from unicodedata import normalize

from ..errors import UserError, first_few
from .dataset import LongTailedDataset
from .factory import create_dataset, published_split
from .folders import classes_come_from_folders, find_split, number_classes, split_folder
from .lists import class_directories
from .names import EVAL_SPLITS, TRAIN_SPLITS, is_split_name
from .streams import StreamDataset, is_stream_name

_logger = logging.getLogger(__name__)


class SkippedImage(NamedTuple):
    """An image that is left out since it cannot be read: of `train` or `val`, its file (or number), and the reason."""
    split: str
    file: str
    why: str


@dataclass(frozen=True)
class Splits:
    """What a model is trained on and what it is measured on.

    Attributes:
        train: Perhaps long-tailed.
        val: Whole, with the class indices of `train`.
        class_names: Of all, by class index.
        val_name: Of `val`, see `published_split`.
        holdout: What `hold_out` took from `train`, if anything.
        skipped: What `skip_bad_images` left out of `train` and `val`.
    """
    train: LongTailedDataset | StreamDataset
    val: LongTailedDataset | StreamDataset
    class_names: list[str]
    val_name: str = 'validation'
    holdout: LongTailedDataset | None = None
    skipped: Sequence[SkippedImage] = ()

    @property
    def watched(self) -> LongTailedDataset | StreamDataset:
        """What is looked at while training goes on: the holdout if there is one, so that `val` is left for the end."""
        return self.val if self.holdout is None else self.holdout


def create_splits(
        name: str,
        root: str | os.PathLike | None = None,
        train_split: str = 'train',
        val_split: str = 'validation',
        class_map: dict | str | os.PathLike | None = None,
        train_list: str | os.PathLike | None = None,
        val_list: str | os.PathLike | None = None,
        **kwargs,
) -> Splits:
    """Make both splits of a data set so that a class has the same index in each.

    The classes are those of the training split. timm numbers the folders of each split on its own; here validation is
    read with the numbers of training. A class without a validation image is allowed.

    Args:
        name, root, class_map: As `create_dataset`.
        train_split: Name of the training split.
        val_split: Name of the split to measure on; the test part of sets that have only one other.
        train_list: Training images by a list file instead, where the name stands for one.
        val_list: The same of the images to measure on; without it those of an image folder below `root`, whose classes
            are known by their names.
        **kwargs: As `create_dataset`: imbalance and reader options.

    Raises:
        UserError: As `create_dataset`; a class in validation that training lacks; a data folder or lists where both
            splits would be the same images.
    """
    for option, split in (('--train-split', train_split), ('--val-split', val_split)):
        if not split:
            raise UserError(f'{option} is empty; name a split')
    _check_lists(train_list, val_list, train_split, val_split)
    if train_list is None and val_list is None and train_split == val_split:
        _logger.warning(f"'{val_split}' is trained on and measured on: figures are of images that were learnt")
    train = create_dataset(
        name, root, train_split, class_map=class_map, list_file=train_list, training=True, **kwargs)
    create_val = partial(create_dataset, root=root, split=val_split, training=False, **kwargs)
    if train_list is not None:
        _check_numbering(train, train_list, train.class_names)
    if val_list is not None:
        val = create_val(name, class_map=train.class_to_idx, list_file=val_list)
        _check_numbering(val, val_list, train.class_names)
    elif train_list is not None:
        _check_val_folder(root, val_split)
        val = create_val('lt/folder')
    elif is_stream_name(name):
        val = create_val(name, class_map=class_map, class_counts=None)  # which are those of the training split
    else:
        val = create_val(name, class_map=class_map)
        _check_apart(root, {train_split: train, val_split: val})
    if val.class_names != train.class_names:
        val = _with_classes(train.class_names, val)
    return Splits(train, val, train.class_names, published_split(name, val_split))


def in_both(splits: Splits) -> list[str]:
    """Images by their paths that a list has in common with another, or with a folder."""
    def files(part: LongTailedDataset) -> Iterator[str]:
        return (part.filename(i, absolute=True) for i in range(len(part)))

    measured = {os.path.abspath(file) for file in files(splits.val)}
    names = {os.path.basename(file) for file in measured}  # looked at first, since few of a million have one of these
    alike = {os.path.abspath(file) for file in files(splits.train) if os.path.basename(file) in names}
    return sorted(alike & measured)


def create_val_split(
        name: str,
        root: str | os.PathLike | None,
        split: str,
        class_names: Sequence[str],
        **kwargs,
) -> Splits:
    """A split to measure on by itself, for a network whose classes are known; it stands for that to train on as well.

    Args:
        name, root: As `create_dataset`.
        split: Its name.
        class_names: By class index, `[C]`; the split may lack some.
        **kwargs: As `create_dataset`.

    Raises:
        UserError: As `create_dataset`; a class that is none of these.
    """
    names, val = list(class_names), create_dataset(name, root, split, training=False, **kwargs)
    if val.class_names != names:
        val = _with_classes(names, val)
    return Splits(val, val, names, published_split(name, split))


def _check_lists(train_list, val_list, train_split: str, val_split: str) -> None:
    if train_list is None and val_list is not None:
        raise UserError('a --val-list goes with a --train-list')
    if train_list is not None and train_split not in TRAIN_SPLITS:
        raise UserError(f"--train-split '{train_split}' is for data that have parts; with a --train-list leave it out")
    if val_list is None:
        return
    if val_split not in EVAL_SPLITS:
        raise UserError(f"--val-split '{val_split}' is for data that have parts; with a --val-list leave it out")
    if os.path.abspath(train_list) == os.path.abspath(val_list):
        raise UserError(f"'{train_list}' is both the --train-list and the --val-list")


def _check_numbering(dataset: LongTailedDataset, list_file, class_names: Sequence[str]) -> None:
    """Refuse a list that has images of several classes in directories that bear the names of others; one may be so by
    chance, and is warned of."""
    reader = dataset.base.reader
    numbers = {name: c for c, name in enumerate(class_names) if name != str(c)}  # which nothing but the list tells
    found = []
    for c, directory in sorted(class_directories(reader.paths, reader.targets).items()):
        parts = directory.split('/')
        ends = ['/'.join(parts[at:]) for at in range(len(parts))]
        if class_names[c] not in ends and (other := next((end for end in ends if end in numbers), None)) is not None:
            found.append(
                f"class {c} is '{class_names[c]}', and '{list_file}' has its images in the directory of class "
                f"{numbers[other]}, '{other}'")
    if len(found) > 1:
        raise UserError(f'{found[0]}: number both alike')
    if found:
        _logger.warning(f'{found[0]}: are both numbered alike?')


def _check_apart(root, splits: Mapping[str, LongTailedDataset]) -> None:
    """Refuse two splits of which one lies in the other."""
    folders = [split_folder(split.base) for split in splits.values()]
    if len(folders) < 2 or None in folders:
        return
    one, other = sorted((os.path.realpath(folder) for folder in folders), key=len)
    if other == one or other.startswith(os.path.join(one, '')):
        above, name = os.path.split(os.path.abspath(root))
        hint = f'; did you mean {above}?' if is_split_name(name) else ''
        raise UserError(
            f"'{root}' has no folders {' and '.join(splits)} beside each other: the same images would be in both{hint}")


def _check_val_folder(root, val_split: str) -> None:
    """Whether there is a folder to measure on beside a list of training images, which may be the data folder itself."""
    if root is None:
        raise UserError(f"there are no images to measure on; give a --val-list, or a --data-dir with a '{val_split}'")
    if find_split(root, val_split) == os.fspath(root):
        raise UserError(f"there is no folder '{val_split}' in '{root}' to measure on; add it, or give a --val-list")


def _with_classes(
        class_names: list[str], val: LongTailedDataset | StreamDataset) -> LongTailedDataset | StreamDataset:
    """The validation split under the class indices of training; not to be used as it was any more."""
    known = set(class_names)
    unknown = [f"'{name}'" for name in val.class_names if name not in known]
    if unknown:
        composed, own = ({normalize('NFC', name) for name in names} for names in (known, val.class_names))
        hint = ' (the same letters in other bytes, Unicode NFC and NFD: rename them)' if own <= composed else ''
        raise UserError(f'validation has classes that training does not have: {first_few(unknown)}{hint}')
    first_classes = val.class_names == class_names[:len(val.class_names)]
    if isinstance(val, StreamDataset):
        if first_classes:
            return val.with_class_names(class_names)
    elif first_classes or classes_come_from_folders(val.base):
        if not first_classes:
            number_classes(val.base, class_names)
        return LongTailedDataset(val.base, val.indices, class_names=class_names)
    raise UserError('training and validation number their classes differently; give a class map, or use lt/folder')
