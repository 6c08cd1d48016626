"""Which image goes where: coverage, repeats, and independence of the number of processes."""
import random

import pytest

from timm_ltkd.data import EpochBatchSampler, ShardSampler
from timm_ltkd.data.sampler import epoch_batch_sizes
from timm_ltkd.errors import UserError


def samplers(n, batch, world, **kwargs):
    return [EpochBatchSampler(n, batch, seed=5, rank=r, world_size=world, **kwargs) for r in range(world)]


def test_every_image_once_but_for_the_repeats():
    rng = random.Random(0)
    for _ in range(300):
        n, batch, world = rng.randint(1, 70), rng.randint(1, 9), rng.randint(1, 5)
        ranks = samplers(n, batch, world)
        batches = [list(sampler) for sampler in ranks]
        seen = [index for rank in batches for keys in rank for _, index in keys]
        assert {len(rank) for rank in batches} == {len(sampler) for sampler in ranks} == {len(batches[0])}
        assert len(batches[0]) >= 1
        assert set(seen) == set(range(n))
        assert len(seen) - n == ranks[0].repeats <= world * batch
        sizes = [[len(keys) for keys in rank] for rank in batches]
        assert all(size == sizes[0] for size in sizes), 'ranks have batches of the same size'
        assert sizes[0] == ranks[0].batch_sizes()
        whole, last_two = sizes[0][:-2], sizes[0][-2:]
        assert all(size == batch for size in whole) and min(batch, 2) <= last_two[-1] <= batch
        full, rest = divmod(n, world * batch)
        if full and 0 < rest < world * batch / 8:
            assert last_two[0] - last_two[1] in (0, 1)
        else:
            assert all(size == batch for size in last_two[:-1])
        if rest == 0:
            assert ranks[0].repeats == 0


def test_global_batches_do_not_depend_on_the_number_of_processes():
    one, = samplers(64 * 3, 32, 1)
    two = samplers(64 * 3, 16, 2)
    four = samplers(64 * 3, 8, 4)
    for sampler in (one, *two, *four):
        sampler.set_epoch(4)
    for k, keys in enumerate(one):
        assert set(keys) == set(list(two[0])[k]) | set(list(two[1])[k])
        assert set(keys) == {key for sampler in four for key in list(sampler)[k]}


def test_order_depends_on_seed_and_epoch_alone():
    first, again = EpochBatchSampler(50, 8, seed=1), EpochBatchSampler(50, 8, seed=1)
    other = EpochBatchSampler(50, 8, seed=2)
    epoch0 = list(first)
    first.set_epoch(3)
    again.set_epoch(3)
    assert list(first) == list(again)
    assert {epoch for keys in first for epoch, _ in keys} == {3}
    flat = [index for keys in epoch0 for _, index in keys]
    assert flat != [index for keys in first for _, index in keys]
    assert flat != [index for keys in other for _, index in keys]
    first.set_epoch(0)
    assert list(first) == epoch0


def test_a_last_batch_of_one_is_not_left_alone():
    ranks = samplers(9, 4, 2)  # one image would be left for two processes
    assert [len(list(sampler)[-1]) for sampler in ranks] == [2, 2]
    assert ranks[0].repeats == 3
    assert [len(keys) for keys in EpochBatchSampler(3, 1, seed=0)] == [1, 1, 1]
    ranks = samplers(11, 2, 5)  # nor does the batch before it go down to one for its sake
    assert [sampler.batch_sizes() for sampler in ranks] == [[2, 2]] * 5 and ranks[0].repeats == 9


@pytest.mark.parametrize('n, batch, world, sizes', [
    (271, 128, 1, [128, 72, 71]), (272, 128, 1, [128, 128, 16]), (258, 128, 1, [128, 65, 65]), (129, 128, 1, [65, 64]),
    (15, 128, 1, [15]),
    (271, 64, 2, [64, 36, 36]), (271, 32, 4, [32, 18, 18]),  # as many processes as there are
    (10847, 128, 1, [128] * 84 + [95]),  # the published recipe's
])
def test_a_small_last_batch_shares_with_the_one_before(n, batch, world, sizes):
    """Whatever the number of processes, and without an image more or less."""
    ranks = samplers(n, batch, world)
    assert ranks[0].batch_sizes() == [len(keys) for keys in ranks[-1]] == sizes
    assert {index for sampler in ranks for keys in sampler for _, index in keys} == set(range(n))
    assert ranks[0].repeats == sum(sizes) * world - n < world
    apart = epoch_batch_sizes(n, batch, world, share_end=False)
    assert len(apart) == len(sizes) and set(apart[:-1]) <= {batch}


@pytest.mark.parametrize('n, batch, world, accumulated, sizes', [
    (1290, 64, 1, 2, [64] * 18 + [35, 35, 34, 34]),  # updates of 70 and 68, not of 128 and 10
    (1290, 128, 1, 1, [128] * 9 + [69, 69]), (1290, 16, 4, 2, [16] * 18 + [9, 9, 9, 8]),
    (1344, 64, 1, 2, [64] * 21),  # half an update is left, which is enough
    (1290, 8, 8, 2, [8] * 18 + [5, 5, 4, 4]), (100, 64, 1, 2, [64, 36]), (66, 32, 1, 4, [32, 17, 17]),
    (17, 2, 1, 8, [2] * 8 + [2]),  # batches of one would be worse
])
def test_a_small_last_update_shares_with_the_one_before(n, batch, world, accumulated, sizes):
    assert epoch_batch_sizes(n, batch, world, accumulated) == sizes
    ranks = samplers(n, batch, world, batches_per_update=accumulated)
    assert [len(keys) for keys in ranks[-1]] == sizes and ranks[0].repeats == sum(sizes) * world - n
    assert {index for sampler in ranks for keys in sampler for _, index in keys} == set(range(n))


@pytest.mark.parametrize('n, world', [(0, 1), (1, 3), (10, 3), (9, 3)])
def test_shards_cover_every_image_once(n, world):
    shards = [ShardSampler(n, r, world) for r in range(world)]
    assert sorted(index for shard in shards for index in shard) == list(range(n))
    assert [len(list(shard)) for shard in shards] == [len(shard) for shard in shards]


@pytest.mark.parametrize('make', [
    lambda: EpochBatchSampler(0, 4, seed=0), lambda: EpochBatchSampler(4, 0, seed=0),
    lambda: EpochBatchSampler(4, 2, seed=0, rank=2, world_size=2), lambda: ShardSampler(4, -1, 2),
])
def test_samplers_refuse(make):
    with pytest.raises(UserError):
        make()
