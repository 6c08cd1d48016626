"""What a long-tailed training set looks like, in a few lines and as groups of classes."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from ..prior import ClassPrior
from .text import printable


def data_profile(prior: ClassPrior, class_names: Sequence[str] | None = None) -> str:
    """Classes, images, largest and smallest class, imbalance factor and shot groups; a fact a line.

    Args:
        prior: Counts of the training set, and the boundaries of the shot groups.
        class_names: Names by class index, `[C]`; the index alone is shown without them.

    Raises:
        UserError: Another number of names than classes.
    """
    check_names(prior, class_names)
    groups = group_classes(prior)
    sizes = [f'{name} {len(classes)} ({_images(prior, classes)} images)' for name, classes in groups.items()]
    return '\n'.join([
        f'classes: {prior.num_classes}',
        f'training images: {prior.num_samples}',
        f'largest class: {_describe(prior, int(prior.counts.argmax()), class_names)}',
        f'smallest class: {_describe(prior, int(prior.counts.argmin()), class_names)}',
        f'imbalance factor: {prior.imbalance_factor:.4g}',
        f"classes by training images (many > {prior.many}, few < {prior.few}): {', '.join(sizes)}",
    ])


def in_short(prior: ClassPrior) -> str:
    """Classes, images and imbalance factor on one line."""
    return (f'{prior.num_classes:,} classes, {prior.num_samples:,} training images, '
            f'imbalance factor {prior.imbalance_factor:.4g}')


def group_classes(prior: ClassPrior) -> dict[str, list[int]]:
    """The class indices of each shot group that has any."""
    masks = prior.shot_groups()
    return {name: mask.nonzero()[:, 0].tolist() for name, mask in masks.items() if mask.any()}


def group_of(prior: ClassPrior) -> dict[int, str]:
    """The shot group of each class index."""
    return {index: group for group, classes in group_classes(prior).items() for index in classes}


def by_images(prior: ClassPrior) -> np.ndarray:
    """Class indices by training images, most first, `[C]`."""
    return np.argsort(-prior.counts.numpy(), kind='stable')


def check_names(prior: ClassPrior, class_names: Sequence[str] | None) -> None:
    """Refuse names that cannot belong to the prior's classes."""
    if class_names is not None and len(class_names) != prior.num_classes:
        raise UserError(f'{len(class_names)} class names for {prior.num_classes} classes; give one name a class')


def check_report(prior: ClassPrior, report: Mapping[str, Any], what: str) -> None:
    """Refuse a report, called `what` in the message, that cannot be of the prior's classes."""
    if len(report['per_class']) != prior.num_classes:
        raise UserError(f"{what} has {len(report['per_class'])} classes, the training set {prior.num_classes}; "
                        'they belong to different data')


def _images(prior: ClassPrior, classes: list[int]) -> int:
    return int(prior.counts[classes].sum())


def _describe(prior: ClassPrior, index: int, class_names: Sequence[str] | None) -> str:
    name = f" '{printable(class_names[index])}'" if class_names is not None else ''
    return f'{index}{name} ({int(prior.counts[index])} images)'
