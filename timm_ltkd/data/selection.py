"""How many images each class keeps, and which: the long-tailed selection, from labels to indices."""
import math
from collections.abc import Sequence

import numpy as np

from ..errors import UserError, nearest

IMBALANCE_TYPES = ('exp', 'step')


def long_tail_counts(
        num_classes: int,
        max_count: int,
        imbalance_factor: float,
        imbalance_type: str = 'exp',
) -> np.ndarray:
    """Images per class of a long-tailed set, as in Cao et al. 2019 (LDAM), section 4 and the code beside it.

    With C classes, n_max images in the largest and the factor rho = largest / smallest:
    `exp` keeps int(n_max * rho^(-c / (C - 1))) images of class c, `step` keeps n_max of each of the first C // 2
    classes and int(n_max / rho) of each of the others.

    Args:
        num_classes: C, at least 2 unless the factor is 1.
        max_count: n_max.
        imbalance_factor: rho, finite and at least 1.
        imbalance_type: 'exp' or 'step'.

    Returns:
        int64 [C], every count at least 1.

    Raises:
        UserError: A value out of its range, or a class that would keep no image.
    """
    if imbalance_type not in IMBALANCE_TYPES:
        raise UserError(f"unknown imbalance type '{imbalance_type}'{nearest(imbalance_type, IMBALANCE_TYPES)}")
    factor = _checked_factor(imbalance_factor)
    if num_classes < 1 or (num_classes < 2 and factor > 1):
        raise UserError(f'a long tail needs at least 2 classes, got {num_classes}')
    if max_count < 1:
        raise UserError(f'the largest class must keep at least 1 image, got {max_count}')

    if imbalance_type == 'exp':
        steps = max(num_classes - 1, 1)
        counts = [int(max_count / factor ** (c / steps)) for c in range(num_classes)]
    else:
        half = num_classes // 2 if num_classes > 1 else 1
        counts = [max_count] * half + [int(max_count / factor)] * (num_classes - half)

    if 0 in counts:
        raise UserError(
            f'an imbalance factor of {factor:g} leaves class {counts.index(0)} with 0 images where the largest class '
            f'has {max_count}; lower the factor')
    return np.array(counts, dtype=np.int64)


def _checked_factor(value) -> float:
    try:
        factor = float(value)
    except (TypeError, ValueError):
        factor = math.nan
    if not math.isfinite(factor) or factor < 1:
        raise UserError(f'the imbalance factor (largest class / smallest class) must be a number >= 1, got {value}')
    return factor


def long_tail_indices(
        targets: Sequence[int] | np.ndarray,
        counts: Sequence[int] | np.ndarray,
        seed: int = 0,
        *,
        class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Which images a long-tailed set keeps, in the order of Cao et al. 2019 (LDAM).

    Class by class in ascending order, the positions of the class are shuffled by one legacy
    `numpy.random.RandomState(seed)` (the same stream for all classes) and the first `counts[c]` are kept.
    With seed 0 and the official file order this is the CIFAR-LT most papers train on. A larger factor keeps a subset
    of what a smaller one keeps. The global NumPy generator is not touched.

    Args:
        targets: Class index of every image, [N].
        counts: Images to keep of each class, [C].
        seed: Of the selection, 0 to 2**32 - 1.
        class_names: Names for error messages, [C].

    Returns:
        int64 [counts.sum()], positions in `targets`, classes concatenated.

    Raises:
        UserError: A class that has fewer images than asked, a label without a count, a seed out of range.
    """
    targets, counts = int_vector(targets, 'targets'), int_vector(counts, 'counts')
    if targets.size and (targets.min() < 0 or targets.max() >= counts.size):
        raise UserError(f'labels run from {targets.min()} to {targets.max()}, but there are {counts.size} class counts')
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2 ** 32:
        raise UserError(f'the imbalance seed must be an integer from 0 to 2**32 - 1, got {seed}')
    available = np.bincount(targets, minlength=counts.size)
    for c in np.flatnonzero((counts > available) | (counts < 0)).tolist():
        raise UserError(f'{called(c, class_names)} has {available[c]} images, but {counts[c]} are asked of it')

    rng = np.random.RandomState(seed)
    by_class = np.split(np.argsort(targets, kind='stable'), np.cumsum(available)[:-1])
    kept = []
    for positions, count in zip(by_class, counts, strict=True):
        rng.shuffle(positions)
        kept.append(positions[:count])
    return np.concatenate(kept).astype(np.int64)


def called(c: int, class_names: Sequence[str] | None) -> str:
    """What messages call a class."""
    return f"class '{class_names[c]}' (index {c})" if class_names is not None else f'class {c}'


def int_vector(values, what: str) -> np.ndarray:
    """Whole numbers that someone gives, perhaps none, as int64 [N]; a UserError says `what` is something else."""
    try:
        array = np.asarray(values)
    except ValueError as e:  # they differ in length
        raise UserError(f'{what} must be a flat list of integers, got lists in a list') from e
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise UserError(f'{what} must be a flat list of integers, got {array.dtype} of shape {array.shape}')
    return array.astype(np.int64)
