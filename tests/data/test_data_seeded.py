"""Samples that depend on (seed, epoch, index) alone."""
import random
import time

import numpy as np
import torch
from torch.utils.data import Dataset

from timm_ltkd.data import SeededDataset


class Draws(Dataset):
    """Gives what each of the three generators draws."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def test_a_key_gives_the_same_draws_whatever_came_before():
    dataset = SeededDataset(Draws(), seed=3)
    first = dataset[2, 5]
    dataset[0, 1]
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    assert dataset[2, 5] == first and first[0] == 5
    assert SeededDataset(Draws(), seed=3)[2, np.int64(5)] == first
    assert len(dataset) == 10


def test_seed_epoch_and_index_all_count():
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    draws = [SeededDataset(Draws(), seed)[epoch, index] for seed, epoch, index in keys]
    for generator in (1, 2, 3):
        assert len({draw[generator] for draw in draws}) == len(keys)
    assert SeededDataset(Draws(), -1)[0, 0] != SeededDataset(Draws(), 2 ** 70)[0, 0]


def test_the_process_generators_are_left_alone():
    for generator in (random, np.random):
        generator.seed(4)
    torch.manual_seed(4)
    np.random.normal()  # the legacy generator then holds a second normal value back
    expected_state = random.getstate(), torch.get_rng_state()
    twin = np.random.RandomState()
    twin.set_state(np.random.get_state())
    SeededDataset(Draws(), 0)[1, 1]
    assert random.getstate() == expected_state[0]
    assert torch.equal(torch.get_rng_state(), expected_state[1])
    assert np.random.normal() == twin.normal() and np.random.rand() == twin.rand()


def test_generators_are_put_back_after_an_error():
    class Broken(Draws):
        def __getitem__(self, index):
            raise ValueError('broken')

    random.seed(4)
    before = random.getstate()
    try:
        SeededDataset(Broken(), 0)[1, 1]
    except ValueError:
        pass
    assert random.getstate() == before


def test_a_plain_index_is_not_seeded():
    dataset = SeededDataset(Draws(), 0)
    assert dataset[3] != dataset[3] and dataset[3][0] == 3


def test_seeding_is_cheap():
    dataset, plain = SeededDataset(Draws(), 0), Draws()
    best = {}
    for name, take in (('seeded', lambda i: dataset[0, i]), ('plain', plain.__getitem__)):
        times = []
        for _ in range(10):
            start = time.perf_counter()
            for i in range(100):
                take(i % 10)
            times.append((time.perf_counter() - start) / 100)
        best[name] = min(times)
    assert best['seeded'] - best['plain'] < 1e-3  # about 0.1 ms; the bound leaves room for a busy machine
