"""What holds of every epoch: each image once over all processes, and what fills the last batch is known."""
from collections import Counter
from functools import partial

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from timm_ltkd.data import CLASS_SAMPLINGS, EpochBatchSampler, ShardSampler, class_shares, epoch_order

IMAGES, BATCH, WORLD = st.integers(1, 60), st.integers(1, 9), st.integers(1, 5)
SEED, EPOCH = st.integers(0, 2 ** 31), st.integers(0, 500)
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def ranks(images, batch, world, seed, epoch, **options):
    """The batches of each process."""
    samplers = [
        EpochBatchSampler(images, batch, seed=seed, rank=rank, world_size=world, **options) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers, [list(sampler) for sampler in samplers]


@given(images=IMAGES, batch=BATCH, world=WORLD, seed=SEED, epoch=EPOCH)
def test_each_image_once_but_for_the_repeats_that_are_told(images, batch, world, seed, epoch):
    samplers, batches = ranks(images, batch, world, seed, epoch)
    shown = Counter(key[1] for rank in batches for one in rank for key in one)
    assert set(shown) == set(range(images))
    assert sum(shown.values()) - images == samplers[0].repeats <= world * batch
    sizes = [[len(one) for one in rank] for rank in batches]
    assert all(size == samplers[0].batch_sizes() for size in sizes) and len(samplers[0]) == len(sizes[0])
    assert all(1 <= size <= batch for size in sizes[0]) and (batch == 1 or min(sizes[0]) >= 2)
    assert all(key[0] == epoch for rank in batches for one in rank for key in one)


@given(images=IMAGES, batch=BATCH, world=WORLD, seed=SEED, epoch=EPOCH)
def test_more_processes_see_the_same_global_batches(images, batch, world, seed, epoch):
    _, several = ranks(images, batch, world, seed, epoch)
    _, (alone,) = ranks(images, batch * world, 1, seed, epoch)
    for number in range(images // (batch * world) - 1):  # the last two may share, whose halves are of whole images
        together = {key for rank in several for key in rank[number]}
        assert together == set(alone[number])


@given(images=IMAGES, batch=BATCH, seed=SEED, epochs=st.lists(EPOCH, min_size=2, max_size=2, unique=True))
def test_an_epoch_depends_on_seed_and_number_alone(images, batch, seed, epochs):
    first, second = epochs
    sampler = EpochBatchSampler(images, batch, seed=seed)
    sampler.set_epoch(second)
    list(sampler)
    sampler.set_epoch(first)
    state = torch.get_rng_state()
    assert list(sampler) == ranks(images, batch, 1, seed, first)[1][0]
    assert torch.equal(torch.get_rng_state(), state)


@given(images=st.integers(0, 60), world=WORLD)
def test_evaluation_shards_hold_each_image_once(images, world):
    shards = [list(ShardSampler(images, rank, world)) for rank in range(world)]
    assert sorted(index for shard in shards for index in shard) == list(range(images))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(counts=COUNTS, sampling=st.sampled_from(CLASS_SAMPLINGS), epoch=st.integers(0, 30), epochs=st.integers(1, 20))
def test_class_shares_lean_from_instances_to_classes(counts, sampling, epoch, epochs):
    shares = class_shares(counts, sampling, epoch=epoch, epochs=epochs)
    assert shares.dtype == torch.float64 and abs(float(shares.sum()) - 1) < 1e-12
    instance, even = np.array(counts) / sum(counts), np.full(len(counts), 1 / len(counts))
    if sampling != 'sqrt':  # which is on neither side for some classes
        low, high = np.minimum(instance, even), np.maximum(instance, even)
        assert ((shares.numpy() >= low - 1e-12) & (shares.numpy() <= high + 1e-12)).all()
    assert (np.diff(shares.numpy()[np.argsort(counts)]) >= -1e-12).all()  # a larger class is shown no less
    spread = float(shares.max() / shares.min())
    assert spread <= max(counts) / min(counts) * (1 + 1e-12)


@given(counts=COUNTS, sampling=st.sampled_from(CLASS_SAMPLINGS), seed=SEED, epoch=st.integers(0, 30), world=WORLD,
       batch=BATCH)
def test_a_class_sampled_epoch_is_as_long_and_no_showing_comes_twice(counts, sampling, seed, epoch, world, batch):
    targets = np.repeat(np.arange(len(counts)), counts)
    order = partial(epoch_order, targets, sampling, seed=seed, epochs=20)
    shown = np.bincount(order(epoch).numpy(), minlength=len(targets))
    assert shown.sum() == len(targets)
    of_class = np.bincount(targets, weights=shown, minlength=len(counts))
    wanted = class_shares(counts, sampling, epoch=epoch, epochs=20).numpy() * len(targets)
    assert (abs(of_class - wanted) < 1 + 1e-9).all()
    for label in range(len(counts)):
        assert np.ptp(shown[targets == label]) <= 1
    samplers, batches = ranks(len(targets), batch, world, seed, epoch, order=order)
    keys = Counter(key for rank in batches for one in rank for key in one)
    assert keys.total() == len(targets) + samplers[0].repeats
    assert keys.total() - len(keys) <= samplers[0].repeats  # what fills the last batch, and nothing else


@given(images=IMAGES, batch=BATCH, world=WORLD, seed=SEED, epoch=EPOCH, views=st.integers(1, 6))
def test_stored_views_are_within_their_number(images, batch, world, seed, epoch, views):
    _, batches = ranks(images, batch, world, seed, epoch, stored_views=views)
    assert all(key[0] < views and len(key) == 2 for rank in batches for one in rank for key in one)
