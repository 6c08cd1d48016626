"""Augmentation that depends on (seed, epoch, sample) alone, not on a worker or a process."""
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from struct import unpack
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

T = TypeVar('T')
GENERATORS = threading.RLock()  # held by whoever seeds the generators of Python, NumPy and PyTorch, or draws from them


class SeededDataset(Dataset):
    """A map-style dataset whose sample `(epoch, index)` is always the same, random transforms included.

    While such a sample is made, the generators of Python, NumPy and PyTorch (CPU) are seeded from
    (seed, epoch, index) and from nothing else, so the pixels do not change with the number of workers or processes,
    nor with what was drawn before. See `seeded_call`.

    An image that is shown more than once in an epoch has the keys `(epoch, index)`, `(epoch, index, 1)`,
    `(epoch, index, 2)` and so on, each with its own augmentation.

    A plain integer index is passed through without seeding.

    Args:
        dataset: Map-style, its `transform` already set.
        seed: Any integer.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, ...] | int):
        if not isinstance(key, tuple):
            return self.dataset[key]
        return seeded_call(lambda: self.dataset[key[1]], self.seed, *key)


def seeded_call(make: Callable[[], T], *parts: int) -> T:
    """What `make` returns while the generators of Python, NumPy and PyTorch (CPU) start from these integers.

    In the main process the three generators then continue as if nothing had happened; a loader worker's belong to
    nobody, and are not put back (that would be most of the cost).
    """
    if get_worker_info() is not None:
        _seed_generators(*parts)
        return make()
    with seeded_generators(*parts):
        return make()


def derive_seed(*parts: int) -> int:
    """An integer from 0 to 2**63 - 1 that depends on every part, and on their order."""
    return unpack('<Q', _digest(parts, 8))[0] >> 1


def _digest(parts: tuple[int, ...], size: int) -> bytes:
    return blake2b(' '.join(f'{part:d}' for part in parts).encode(), digest_size=size).digest()


def _seed_generators(*parts: int) -> None:
    python_seed, torch_seed, numpy_seed = unpack('<QQI', _digest(parts, 20))
    random.seed(python_seed)
    np.random.seed(numpy_seed)  # the legacy generator takes 32 bits
    torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would seed the accelerators too


@contextmanager
def seeded_generators(*parts: int) -> Iterator[None]:
    """Inside, the generators of Python, NumPy and PyTorch (CPU) start from these integers; then all is as it was."""
    with GENERATORS:
        states = generator_states()
        try:
            _seed_generators(*parts)
            yield
        finally:
            set_generator_states(states)


def generator_states() -> tuple:
    """Where the generators of Python, NumPy and PyTorch (CPU) are, for `set_generator_states`."""
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state()


def set_generator_states(states: tuple) -> None:
    """Put the three generators back to where they were: what is drawn then is drawn again."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.default_generator.set_state(states[2])
