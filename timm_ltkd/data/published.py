"""Long-tailed sets that were published as lists of images: what they hold, and whether a list is one of them."""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..prior import ClassPrior
from .class_counts import read_class_counts
from .names import is_long_tailed_name, plain_name

_IMAGENET_LT_COUNTS = Path(__file__).with_name('imagenet_lt_counts.json')
BY_COUNTS = 'imagenet_by_counts'


class Published(NamedTuple):
    """What was published of a training list; None where it was not.

    Attributes:
        title: What papers call the set.
        train_list: Name of the published file.
        classes: C.
        images: Of all classes.
        sizes: Images of the largest and of the smallest class.
        groups: Classes with more than 100, 20 to 100, and fewer than 20 images.
    """
    title: str
    train_list: str
    classes: int
    images: int
    sizes: tuple[int, int] | None = None
    groups: tuple[int, int, int] | None = None


# Liu et al. 2019, arXiv 1904.05160 (ImageNet-LT and Places-LT); Van Horn et al. 2018, arXiv 1707.06642
SETS = {
    'imagenet': Published('ImageNet-LT', 'ImageNet_LT_train.txt', 1000, 115_846, (1280, 5), (385, 479, 136)),
    'places365': Published('Places-LT', 'Places_LT_train.txt', 365, 62_500, (4980, 5), (131, 163, 71)),
    'inat2018': Published('iNaturalist 2018', 'iNaturalist18_train.txt', 8142, 437_513),
}


def needs_list(name: str) -> UserError:
    """What to say of a published set without its list.

    Args:
        name: Of `SETS`.
    """
    instead = f', or lt/{BY_COUNTS}: as many images of each class, but others' if name == 'imagenet' else ''
    of = SETS[name]
    return UserError(f'lt/{name} is {of.title} as published: give its list (--train-list {of.train_list}){instead}')


def imagenet_lt_counts(class_names: list[str]) -> np.ndarray:
    """Images of each class in ImageNet-LT, int64 `[1000]`, in the order of ImageNet's class indices.

    Args:
        class_names: Of the data that are to be selected from.

    Raises:
        UserError: They are not the 1,000 WordNet ids, in order, that the counts are for.
    """
    counts = read_class_counts(_IMAGENET_LT_COUNTS)
    wordnet = all(len(name) == 9 and name[0] == 'n' and name[1:].isdigit() for name in class_names)
    if len(class_names) != len(counts) or not wordnet or class_names != sorted(class_names):
        raise UserError(
            f'lt/{BY_COUNTS} selects from ImageNet, {len(counts)} class folders called by their WordNet ids '
            f'(n01440764, ...); these data have {len(class_names)} classes, the first {class_names[0]!r}')
    return counts


def remark(dataset: str) -> str | None:
    """What has to be said of figures on a set, by the name it was asked for; None for most.

    Args:
        dataset: As `create_dataset` takes it.
    """
    if _short(dataset) == BY_COUNTS:
        return (f'{dataset} has as many images of each class as ImageNet-LT, but not those of its published list: '
                'figures on it are not figures on ImageNet-LT')
    return None


def mismatch(dataset: str, class_counts: np.ndarray) -> str | None:
    """How a list differs from the published one that its name stands for; None if it doesn't, or for other names.

    Args:
        dataset: As `create_dataset` takes it.
        class_counts: Images of each class, `[C]`.
    """
    known = SETS.get(_short(dataset))
    if known is None:
        return None
    found = known._replace(
        classes=len(class_counts), images=int(class_counts.sum()),
        sizes=known.sizes and (int(class_counts.max()), int(class_counts.min())),
        groups=known.groups and tuple(
            int(group.sum()) for group in ClassPrior(class_counts).shot_groups().values()))
    if found != known:
        return f'{dataset}: {known.title} was published with {_describe(known)}; this list has {_describe(found)}'
    if known.title == 'ImageNet-LT' and (class_counts != read_class_counts(_IMAGENET_LT_COUNTS)).any():
        return f"{dataset}: this list's totals are those of {known.title}, but not the images of each class in order"
    return None


def _short(dataset: str) -> str:
    """The name without `lt/`; '' for names without."""
    return plain_name(dataset).lower() if is_long_tailed_name(dataset) else ''


def _describe(of: Published) -> str:
    text = f'{of.images:,} images in {of.classes:,} classes'
    if of.sizes is not None:
        text += f' of {of.sizes[0]:,} down to {of.sizes[1]:,}'
    if of.groups is not None:
        text += ', {} many-, {} medium- and {} few-shot'.format(*of.groups)
    return text
