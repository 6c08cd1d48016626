"""Defaults that belong to the data set rather than to the scripts."""
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data.published import BY_COUNTS, SETS
from ..options import DEPENDENT


class DatasetDefaults(NamedTuple):
    """What to train with where nobody says otherwise; None leaves it to the model."""
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    workers: int
    img_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    train_crop_mode: str = 'rrc'
    hflip: float = 0.5
    color_jitter: float = 0.4
    crop_pct: float | None = None


DIGITS = DatasetDefaults(
    epochs=20, batch_size=16, lr=0.02, weight_decay=5e-4, workers=0, img_size=32,
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), train_crop_mode='pad', hflip=0., color_jitter=0., crop_pct=1.)
CIFAR = DatasetDefaults(
    epochs=200, batch_size=128, lr=0.1, weight_decay=2e-4, workers=4, img_size=32,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), train_crop_mode='pad', color_jitter=0., crop_pct=1.)
TINY_IMAGENET = DatasetDefaults(  # our choice: as CIFAR, at its size, padded by 4 as well
    epochs=200, batch_size=128, lr=0.1, weight_decay=2e-4, workers=4, img_size=64,
    mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, train_crop_mode='pad', color_jitter=0., crop_pct=1.)
IMAGENET = DatasetDefaults(  # Kang et al. 2020, arXiv 1910.09217, whose rate is 0.2 for batches of 512
    epochs=90, batch_size=256, lr=0.1, weight_decay=5e-4, workers=8, img_size=224,
    mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, crop_pct=0.875)
OTHER = DatasetDefaults(epochs=100, batch_size=128, lr=0.1, weight_decay=5e-5, workers=4)

DEFAULTS_HELP = 'Defaults that belong to the data set:\n' + '\n'.join(
    f'  {name:<30}' + ', '.join(f'{key} {value}' for key, value in defaults._asdict().items() if value is not None)
    for name, defaults in (
        ('digits', DIGITS), ('cifar*', CIFAR), ('tinyimagenet', TINY_IMAGENET),
        ('imagenet, places365, inat2018', IMAGENET), ('others', OTHER))) + (
    '\nA network that starts from weights that are trained already takes a tenth of this lr, but in a --stage.')


def dataset_defaults(dataset: str) -> DatasetDefaults:
    """Defaults for a data set by its name, with or without lt/ and torch/."""
    name = dataset.lower().rsplit('/', 1)[-1]
    if name == 'digits':
        return DIGITS
    if name.startswith('cifar'):
        return CIFAR
    if name == 'tinyimagenet':
        return TINY_IMAGENET
    return IMAGENET if name in (*SETS, BY_COUNTS) else OTHER


def fill_defaults(args: Namespace, only: Sequence[str] | None = None) -> None:
    """Give options that are None (of `only`, or all) their data set's default, and the data set its own, in place.

    Pretrained weights keep the normalisation that they were trained with. A network that starts from weights, and is
    trained whole, takes a tenth of the data set's learning rate (our choice). A holdout, which chooses what is
    exported, does so by balanced accuracy.
    """
    if args.dataset is None:
        args.dataset = 'lt/digits' if args.train_list is None else 'lt/list'
    defaults = {key: value for key, value in dataset_defaults(args.dataset)._asdict().items() if value is not None}
    if getattr(args, 'pretrained', None):  # the model knows with which normalisation
        defaults = {key: value for key, value in defaults.items() if key not in ('mean', 'std')}
    if (getattr(args, 'pretrained', None) or getattr(args, 'initial_checkpoint', None)) \
            and not getattr(args, 'stage', None):
        defaults['lr'] /= 10
    for key, value in defaults.items():
        if key in args and getattr(args, key) is None and (only is None or key in only):
            setattr(args, key, list(value) if isinstance(value, tuple) else value)
    for key, (by, usual) in DEPENDENT.items():
        if key in args and getattr(args, key) is None:
            setattr(args, key, usual(getattr(args, by, None)))
