"""Augmentation that depends on (seed, epoch, sample) alone, not on a worker or a process."""
import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from struct import unpack

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info


class SeededDataset(Dataset):
    """A map-style dataset whose sample `(epoch, index)` is always the same, random transforms included.

    While such a sample is made, the generators of Python, NumPy and PyTorch (CPU) are seeded from
    (seed, epoch, index) and from nothing else, so the pixels do not change with the number of workers or processes,
    nor with what was drawn before. In the main process the three generators then continue as if nothing had happened;
    a loader worker's belong to nobody, and are not put back (that would be most of the cost).

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
        if get_worker_info() is not None:
            _seed_generators(self.seed, *key)
            return self.dataset[key[1]]
        with seeded_generators(self.seed, *key):
            return self.dataset[key[1]]


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
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        _seed_generators(*parts)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
