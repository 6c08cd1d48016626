"""How a stream is shuffled: within so many images at a time; and whether its classes are mixed well enough for that."""
import logging
import random
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

SHUFFLED_AT_ONCE = 2048  # undecoded images in the memory of each loader worker
_MIXED = 0.75
_logger = logging.getLogger(__name__)
T = TypeVar('T')


def shuffled(items: Iterator[T], at_once: int, generator: random.Random) -> Iterator[T]:
    """The items in another order: each comes out at random from among those that are held at a time."""
    held: list[T] = []
    for item in items:
        if len(held) < at_once:
            held.append(item)
            continue
        place = generator.randrange(at_once)
        yield held[place]
        held[place] = item
    generator.shuffle(held)
    yield from held


class ClassesAtOnce:
    """How many different classes the images have that are shuffled at once, on average over the stream.

    Shards come in any order, so that short ones are held beside others; these are taken to have other classes.
    """

    def __init__(self):
        self._images, self._sum = 0, 0.0

    def add(self, labels: np.ndarray) -> None:
        """Take in a shard: its class indices in order, int64 [N]."""
        for start in range(0, len(labels), SHUFFLED_AT_ONCE):
            new = len(labels[start:start + SHUFFLED_AT_ONCE])
            held = labels[max(start + new - SHUFFLED_AT_ONCE, 0):start + new]
            self._images += new
            self._sum += new * len(np.unique(held)) * SHUFFLED_AT_ONCE / len(held)

    def mean(self, class_counts: np.ndarray) -> float:
        """Of the shards so far, at most what `if_mixed` says of these counts, [C]."""
        return min(self._sum / self._images, if_mixed(class_counts))


def if_mixed(class_counts: np.ndarray) -> float:
    """How many classes `SHUFFLED_AT_ONCE` images drawn at random have, on average.

    Args:
        class_counts: Images of each class, int64 [C].
    """
    return float((1 - (1 - class_counts / class_counts.sum()) ** SHUFFLED_AT_ONCE).sum())


def warn_if_sorted(what: str, at_once: float | None, class_counts: np.ndarray) -> None:
    """Log a warning of a stream whose batches would be of few classes.

    Args:
        what: Which stream.
        at_once: `ClassesAtOnce.mean` of it; None if nobody counted.
        class_counts: Images of each class, int64 [C].
    """
    mixed = if_mixed(class_counts)
    if at_once is not None and at_once < _MIXED * mixed:
        _logger.warning(
            f'{what} is not well mixed by class: {SHUFFLED_AT_ONCE:,} images in a row, which are shuffled at once, '
            f'have {at_once:.1f} classes on average, and would have {mixed:.1f} if they were mixed. Batches are of few '
            'classes then, and training suffers: write it in random order, or use hfds/ or image folders')
