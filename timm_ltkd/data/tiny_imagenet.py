"""Tiny ImageNet as it is distributed: the folder tiny-imagenet-200, whose validation images lie in no class folders."""
import os
from pathlib import Path

import numpy as np
from timm.data.readers import get_img_extensions

from ..errors import UserError
from .lists import ImageList, PackedPaths
from .names import EVAL_SPLITS, TRAIN_SPLITS


def read_tiny_imagenet(root: str | os.PathLike, split: str) -> ImageList:
    """The images of a split and their classes.

    The classes are the folders below `train`, sorted, and each class's images are sorted by name, as torchvision's
    `ImageFolder` does both: the selection at a factor and seed is the one that it gives on the training folder.

    Args:
        root: The folder tiny-imagenet-200.
        split: The training or validation split by any of its names; the test images have no labels.

    Raises:
        UserError: Another split, no such folder, or a validation image without a class.
    """
    root = Path(root)
    if split not in (*TRAIN_SPLITS, *EVAL_SPLITS):
        raise UserError(f"Tiny ImageNet has labels for the splits train and val only, not for '{split}'")
    if not (root / 'train').is_dir():
        raise UserError(f"there is no folder train in '{root}'; give the folder tiny-imagenet-200 (--data-dir)")
    class_names = sorted(entry.name for entry in os.scandir(root / 'train') if entry.is_dir())
    annotations = root / 'val' / 'val_annotations.txt'
    # who sorts the validation images into class folders may leave the list, and the folder that they were in
    listed = annotations.is_file() and any(path.is_file() for path in root.glob('val/images/*'))
    if split in TRAIN_SPLITS or not listed:
        return _read_class_folders(root, 'train' if split in TRAIN_SPLITS else 'val', class_names)
    return _read_annotations(annotations, class_names)


def _read_class_folders(root: Path, split: str, class_names: list[str]) -> ImageList:
    """`SPLIT/CLASS/images/*`, or `SPLIT/CLASS/*` as some sort the validation images into."""
    extensions = tuple(get_img_extensions())
    paths, targets = PackedPaths(), []
    for target, name in enumerate(class_names):
        folder = Path(split, name, 'images')
        folder = folder if (root / folder).is_dir() else folder.parent
        files = os.listdir(root / folder) if (root / folder).is_dir() else []
        for file in sorted(file for file in files if file.lower().endswith(extensions)):
            paths.append(os.fsencode(folder / file))
            targets.append(target)
    if not paths:
        raise UserError(f"there are no images in the class folders of '{root / split}'")
    return ImageList(paths, np.array(targets, np.int64), class_names)


def _read_annotations(path: Path, class_names: list[str]) -> ImageList:
    """`val_annotations.txt`: on each line, parted by tabs, an image, its class, and the box that it shows it in."""
    index = {name: c for c, name in enumerate(class_names)}
    paths, targets = PackedPaths(), []
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except ValueError:
        raise UserError(f"'{path}' is no text: fetch it again") from None
    for number, line in enumerate(lines, 1):
        file, _, rest = line.partition('\t')
        name = rest.split('\t')[0]
        if name not in index:
            raise UserError(f"'{path}', line {number}: no class '{name}' is among the training images")
        paths.append(os.fsencode(Path('val', 'images', file)))
        targets.append(index[name])
    if not paths:
        raise UserError(f"'{path}' lists no image: fetch it again")
    return ImageList(paths, np.array(targets, np.int64), class_names)
