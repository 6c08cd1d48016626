"""Training and validation data under one class map, and what identifies them."""
import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from .dataset import LongTailedDataset
from .factory import create_dataset
from .folders import classes_come_from_folders, split_folder

_IMAGES_READ = 16


@dataclass(frozen=True)
class Splits:
    """What a model is trained on and what it is measured on.

    Attributes:
        train: Perhaps long-tailed.
        val: Whole, with the class indices of `train`.
        class_names: Of all, by class index.
        holdout: What `hold_out` took from `train`, if anything.
    """
    train: LongTailedDataset
    val: LongTailedDataset
    class_names: list[str]
    holdout: LongTailedDataset | None = None

    @property
    def watched(self) -> LongTailedDataset:
        """What is looked at while training goes on: the holdout if there is one, so that `val` is left for the end."""
        return self.val if self.holdout is None else self.holdout


def create_splits(
        name: str,
        root: str | os.PathLike | None = None,
        train_split: str = 'train',
        val_split: str = 'validation',
        class_map: dict | str | os.PathLike | None = None,
        **kwargs,
) -> Splits:
    """Make both splits of a data set so that a class has the same index in each.

    The classes are those of the training split. timm numbers the folders of each split on its own; here validation is
    read with the numbers of training. A class without a validation image is allowed.

    Args:
        name, root, class_map: As `create_dataset`.
        train_split: Name of the training split.
        val_split: Name of the split to measure on; the test part of sets that have only one other.
        **kwargs: As `create_dataset`: imbalance and reader options.

    Raises:
        UserError: As `create_dataset`; a class in validation that training lacks; a data folder where both splits
            would be the same images.
    """
    options = dict(name=name, root=root, class_map=class_map, **kwargs)
    train = create_dataset(split=train_split, **options)
    val = create_dataset(split=val_split, **options)
    folder = split_folder(train.base)
    if train_split != val_split and folder is not None and folder == split_folder(val.base):
        raise UserError(f"'{root}' has no folders {train_split} and {val_split}: both splits would be the same images")
    if val.class_names != train.class_names:
        val = _with_classes_of(train, val, options | dict(split=val_split))
    return Splits(train, val, train.class_names)


def _with_classes_of(train: LongTailedDataset, val: LongTailedDataset, options: dict) -> LongTailedDataset:
    """The validation split under the class indices of training."""
    unknown = [f"'{name}'" for name in val.class_names if name not in train.class_to_idx]
    if unknown:
        more = f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''
        raise UserError(f"validation has classes that training does not have: {', '.join(unknown[:5])}{more}")
    if classes_come_from_folders(val.base):
        return create_dataset(**options | dict(class_map=train.class_to_idx))
    if val.class_names == train.class_names[:len(val.class_names)]:
        return LongTailedDataset(val.base, val.indices, class_names=train.class_names)
    raise UserError('training and validation number their classes differently; give a class map, or use lt/folder')


def fingerprint(splits: Splits) -> str:
    """What tells two data sets apart: classes, labels, selection, file names, and the pixels of a few training images.

    File names count relative to the split's folder, so that a moved data set keeps its fingerprint; the pixels tell
    a copy of another resolution from the original.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    parts = [json.dumps(splits.class_names).encode()]
    held = () if splits.holdout is None else (splits.holdout.targets, splits.holdout.indices)
    for array in (splits.train.targets, splits.train.indices, splits.val.targets, *held):
        parts.append(np.ascontiguousarray(array, dtype='<i8').tobytes())
    for dataset in (splits.train, splits.val, *(() if splits.holdout is None else (splits.holdout,))):
        parts.append(json.dumps(_file_names(dataset)).encode())
    raw = splits.train.with_transform(None)
    for i in np.linspace(0, len(raw) - 1, min(len(raw), _IMAGES_READ)).astype(int):
        parts.append(np.asarray(raw[i][0]).tobytes())
    for part in parts:
        digest.update(len(part).to_bytes(8, 'little'))
        digest.update(part)
    return digest.hexdigest()


def _file_names(dataset: LongTailedDataset) -> list[str] | None:
    """Where the dataset keeps a list of them; a Hugging Face table would have to be read for its."""
    if hasattr(dataset.base, 'reader') and not classes_come_from_folders(dataset.base):
        return None
    if not len(dataset) or dataset.filename(0) is None:
        return None
    return [dataset.filename(i) for i in range(len(dataset))]
