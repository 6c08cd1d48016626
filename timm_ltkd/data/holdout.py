"""A part of the training images, held out of training: what may be chosen on it need not be chosen on the test set."""
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import UserError, nearest
from .seeded import derive_seed
from .splits import Splits
from .streams import StreamDataset

HOLDOUT_TYPES = ('proportional', 'balanced')


def holdout_counts(class_counts: Sequence[int] | np.ndarray, share: float, holdout_type: str) -> np.ndarray:
    """How many images of each class are held out.

    Our choice. `proportional`: `share` of each class, to the nearest whole number (halves up), but at least one, so
    that every class is measured. `balanced`: the same number m of each class, but at most half of a class; m is the
    largest for which no more than `share` of all images are held out, and at least 1. A class with one image keeps
    it in training, whatever the type.

    Args:
        class_counts: Images of each class, [C].
        share: Above 0, at most 0.5.
        holdout_type: One of `HOLDOUT_TYPES`.

    Returns:
        int64 [C], of a class with n images at most n // 2 (rounded up for `proportional`), and less than n.

    Raises:
        UserError: An unknown type, a share out of range, or no class with two images.
    """
    if holdout_type not in HOLDOUT_TYPES:
        raise UserError(f"unknown holdout type '{holdout_type}'{nearest(holdout_type, HOLDOUT_TYPES)}")
    if not 0 < share <= 0.5:
        raise UserError(f'a holdout takes a share above 0 and at most 0.5 of the training images, got {share}')
    counts = np.asarray(class_counts, np.int64)
    if (counts < 2).all():
        raise UserError('no class has two training images, so none can be held out; leave --holdout out')
    if holdout_type == 'balanced':
        return np.minimum(_even_number(counts // 2, share * counts.sum()), counts // 2)
    nearest_whole = np.floor(share * counts + 0.5).astype(np.int64)
    return np.minimum(nearest_whole.clip(1), (counts - 1).clip(0))


def _even_number(most: np.ndarray, total: float) -> int:
    """The largest m >= 1 with no more than `total` images in all, if each class gives m or its most."""
    return max(1, bisect_right(range(1, int(most.max()) + 1), total, key=lambda m: np.minimum(most, m).sum()))


def holdout_positions(
        targets: Sequence[int] | np.ndarray,
        counts: Sequence[int] | np.ndarray,
        *,
        seed: int,
) -> np.ndarray:
    """Which images are held out: of each class the first `counts` of a permutation that depends on (seed, class) only.

    Args:
        targets: Class index of every training image, [N].
        counts: Of `holdout_counts`, [C].
        seed: Any integer from 0 on.

    Returns:
        Positions in `targets`, ascending, int64.
    """
    targets = np.asarray(targets)
    by_class = np.split(np.argsort(targets, kind='stable'), np.cumsum(np.bincount(targets, minlength=len(counts)))[:-1])
    held = []
    for label in np.flatnonzero(counts).tolist():
        members = by_class[label]
        order = np.random.default_rng(derive_seed(seed, label)).permutation(len(members))
        held.append(members[order[:counts[label]]])
    return np.sort(np.concatenate(held)).astype(np.int64) if held else np.empty(0, np.int64)


def hold_out(splits: Splits, share: float, holdout_type: str = 'proportional', *, seed: int = 0) -> Splits:
    """The same splits with a part of `train` moved to `holdout`; no image is in both.

    Args:
        splits: Without a holdout yet.
        share, holdout_type: As `holdout_counts`.
        seed: Selects the images.

    Raises:
        UserError: As `holdout_counts`; the splits are streams.
    """
    train = splits.train
    if isinstance(train, StreamDataset):
        raise UserError(
            f"'{train.shards.name}' is a stream and cannot be indexed, so nothing can be held out of it; leave the "
            'holdout out, or name a split that was held out when the stream was written')
    held = holdout_positions(train.targets, holdout_counts(train.class_counts, share, holdout_type), seed=seed)
    kept = np.delete(np.arange(len(train)), held)
    held_out = train.subset(held).with_transform(train.transform)  # from now on its own: it is not augmented
    return replace(splits, train=train.subset(kept), holdout=held_out)
