"""How many images each class keeps, and which: the long-tailed selection, from labels to indices."""
import json
import math
import os
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
        counts = [int(max_count * factor ** (-c / steps)) for c in range(num_classes)]
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
        raise UserError(f'{_called(c, class_names)} has {available[c]} images, but {counts[c]} are asked of it')

    rng = np.random.RandomState(seed)
    by_class = np.split(np.argsort(targets, kind='stable'), np.cumsum(available)[:-1])
    kept = []
    for positions, count in zip(by_class, counts, strict=True):
        rng.shuffle(positions)
        kept.append(positions[:count])
    return np.concatenate(kept).astype(np.int64)


def _called(c: int, class_names: Sequence[str] | None) -> str:
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


def given_class_counts(
        given: Sequence[int] | np.ndarray | str | os.PathLike,
        class_names: Sequence[str] | None,
        what: str,
) -> np.ndarray:
    """Images per class as someone gives them, int64 [C]; a UserError if they are none, don't fit, or one is below 1.

    Args:
        given: Numbers, or a file of them (see `read_class_counts`).
        class_names: Of the data they are for, [C]; None where these are not known.
        what: What messages call the data.
    """
    counts = read_class_counts(given) if isinstance(given, str | os.PathLike) else int_vector(given, 'class counts')
    if class_names is not None and len(counts) != len(class_names):
        raise UserError(f'{len(counts)} class counts are given for the {len(class_names)} classes of {what}')
    if not counts.size:
        raise UserError(f'no class counts are given for {what}')
    c = int(counts.argmin())
    if counts[c] < 1:
        raise UserError(f'{_called(c, class_names)} of {what} would have {counts[c]} images; 1 is the least')
    return counts


def read_class_counts(path: str | os.PathLike) -> np.ndarray:
    """Read images per class from a file: a JSON list of integers, or one integer a line, in class order.

    Returns:
        int64 [C], every count at least 1.

    Raises:
        UserError: No such file, no counts in it, or an entry that is no positive integer.
    """
    try:
        with open(path, encoding='utf-8-sig') as f:
            text = f.read()
    except (OSError, ValueError) as e:  # ValueError: no UTF-8, or a path that cannot be one
        raise UserError(f"cannot read class counts from '{path}': {getattr(e, 'strerror', None) or e}") from e

    if text.lstrip().startswith('['):
        try:
            entries = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as e:
            raise UserError(f"class counts in '{path}' are not a valid JSON list: {e}") from e
        place = 'entry'
    else:
        entries = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        place = 'line'
    if not entries:
        raise UserError(f"class counts in '{path}': the file has none")
    return np.array([_positive_int(value, f"class counts in '{path}', {place} {n}") for n, value in entries], np.int64)


def _positive_int(value, where: str) -> int:
    try:
        if isinstance(value, bool | float):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number < 2 ** 31:
        raise UserError(f"{where}: '{value}' is not a positive integer, or too large a one")
    return number
