"""How often each class and each image is shown, and that nothing but (seed, epoch) decides it."""
import random

import numpy as np
import pytest
import torch

from timm_ltkd.data import (
    CLASS_SAMPLINGS,
    EpochBatchSampler,
    class_shares,
    create_dataset,
    create_train_loader,
    create_train_transform,
    epoch_order,
)
from timm_ltkd.data.seeded import derive_seed
from timm_ltkd.errors import UserError

COUNTS = [100, 36, 9, 4, 1]
TARGETS = torch.repeat_interleave(torch.arange(5), torch.tensor(COUNTS))[torch.randperm(
    150, generator=torch.Generator().manual_seed(0))]
AWARE = [sampling for sampling in CLASS_SAMPLINGS if sampling != 'instance']


def shown(sampling, epoch=0, seed=3, epochs=5):
    """Images of each class in an epoch."""
    return torch.bincount(TARGETS[epoch_order(TARGETS, sampling, epoch, seed=seed, epochs=epochs)], minlength=5)


def key_batches(sampling, batch, world, epoch=1):
    samplers = [
        EpochBatchSampler(150, batch, seed=3, rank=rank, world_size=world, order=lambda e: epoch_order(
            TARGETS, sampling, e, seed=3, epochs=5)) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


def test_shares_are_those_of_the_paper():
    def shares(sampling, **kwargs):
        return class_shares(COUNTS, sampling, **kwargs).tolist()

    instance = [count / 150 for count in COUNTS]
    assert shares('instance') == pytest.approx(instance, abs=1e-15)
    assert shares('class') == pytest.approx([0.2] * 5, abs=1e-15)
    assert shares('sqrt') == pytest.approx([root / 22 for root in (10, 6, 3, 2, 1)], abs=1e-15)
    for epoch, balance in ((0, 0.), (1, 0.25), (4, 1.), (6, 1.)):
        expected = [(1 - balance) * share + balance * 0.2 for share in instance]
        assert shares('progressive', epoch=epoch, epochs=5) == pytest.approx(expected, abs=1e-15)
    assert shares('progressive', epoch=0, epochs=1) == pytest.approx(instance)


def test_a_class_without_an_image_is_never_drawn():
    for sampling in CLASS_SAMPLINGS:
        shares = class_shares([0, 4, 0, 1], sampling, epoch=2, epochs=4)
        assert shares[[0, 2]].tolist() == [0, 0] and float(shares.sum()) == pytest.approx(1)
    order = epoch_order([1, 1, 1, 1, 3], 'class', 0, seed=0)
    assert sorted(torch.bincount(torch.tensor([1, 1, 1, 1, 3])[order], minlength=4).tolist()) == [0, 0, 2, 3]


def test_instance_sampling_is_the_plain_permutation():
    for epoch in (0, 3):
        generator = torch.Generator().manual_seed(derive_seed(3, epoch))
        expected = torch.randperm(150, generator=generator)
        assert torch.equal(epoch_order(TARGETS, 'instance', epoch, seed=3), expected)
        plain = EpochBatchSampler(150, 16, seed=3)
        plain.set_epoch(epoch)
        assert list(plain) == key_batches('instance', 16, 1, epoch)[0], 'the repeats of the last batch as well'


@pytest.mark.parametrize('sampling', AWARE)
def test_each_class_gets_its_share_of_every_epoch(sampling):
    epochs = 400
    counts = torch.stack([shown(sampling, epoch, epochs=epochs) for epoch in range(epochs)])
    shares = 150 * torch.stack([class_shares(COUNTS, sampling, epoch=e, epochs=epochs) for e in range(epochs)])
    assert (counts.sum(1) == 150).all()
    assert ((counts - shares).abs() < 1).all(), 'rounded down or up'
    error = (counts - shares).mean(0).abs()
    assert (error < 4 * 0.5 / epochs ** 0.5).all(), 'without bias'


@pytest.mark.parametrize('sampling', AWARE)
def test_images_of_a_class_take_turns(sampling):
    for epoch in range(5):
        order = epoch_order(TARGETS, sampling, epoch, seed=3, epochs=5)
        times = torch.bincount(order, minlength=150)
        for c in range(5):
            assert int(times[TARGETS == c].max() - times[TARGETS == c].min()) <= 1
    assert not torch.equal(order, order.sort().values)
    assert len(set(TARGETS[order[:16]].tolist())) > 2, 'classes are mixed'


def test_all_images_of_a_large_class_are_shown_alike():
    """The largest class shows 30 of its 100 images an epoch: chi-square of 99 degrees, without replacement."""
    times = sum(torch.bincount(epoch_order(TARGETS, 'class', e, seed=1), minlength=150) for e in range(300))
    times = times[TARGETS == 0].double()
    expected, variance = 300 * 0.3, 300 * 0.3 * 0.7
    assert float(times.mean()) == pytest.approx(expected)
    assert 50 < float(((times - expected) ** 2 / variance).sum()) < 160


def test_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    orders = [epoch_order(TARGETS, 'sqrt', epoch, seed=seed) for epoch, seed in ((1, 3), (2, 3), (1, 4), (1, 3))]
    assert torch.equal(orders[0], orders[3])
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and (np.random.get_state()[1] == before[2]).all()


@pytest.mark.parametrize('sampling', CLASS_SAMPLINGS)
def test_processes_share_the_work_of_one(sampling):
    one, = key_batches(sampling, 12, 1)
    ranks = key_batches(sampling, 4, 3)
    for k, keys in enumerate(one):
        together = [key for rank in ranks for key in rank[k]]
        assert sorted(together) == sorted(keys)
    keys = [key for batch in one for key in batch]
    assert len(keys) == 150 + 6 - 150 % 12 == len(set(keys)), 'no key twice: 150 and a last batch of 6'


def test_keys_tell_the_showings_of_an_image_apart():
    sampler = EpochBatchSampler(6, 4, seed=0, order=lambda epoch: torch.tensor([2, 5, 2, 2, 0, 5]))
    sampler.set_epoch(7)
    assert list(sampler) == [[(7, 2), (7, 5), (7, 2, 1), (7, 2, 2)], [(7, 0), (7, 5, 1)]]
    sampler = EpochBatchSampler(3, 2, seed=0, order=lambda epoch: torch.tensor([1, 1, 0]))
    assert list(sampler) == [[(0, 1), (0, 1, 1)], [(0, 0), (0, 1)]], 'a repeat is the same sample again'


def test_each_showing_of_an_image_is_augmented_anew():
    digits = create_dataset('lt/digits')
    transform = create_train_transform(crop_mode='pad', input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)

    def batches(workers):
        loader = create_train_loader(
            digits, transform, batch_size=64, seed=1, workers=workers, class_sampling='class', epochs=3)
        loader.batch_sampler.set_epoch(1)
        return list(loader), [key for keys in loader.batch_sampler for key in keys]

    (mine, keys), (others, _) = batches(0), batches(1)
    for (images, targets), (same_images, same_targets) in zip(mine, others, strict=True):
        assert torch.equal(images, same_images) and torch.equal(targets, same_targets)
    images, targets = (torch.cat(parts) for parts in zip(*mine, strict=True))
    assert torch.equal(targets, torch.as_tensor(digits.targets)[[key[1] for key in keys]])
    assert torch.bincount(targets).tolist() == pytest.approx([len(keys) / 10] * 10, abs=len(keys) - len(digits) + 1)
    looks = {images[i].numpy().tobytes() for i, key in enumerate(keys) if targets[i] == 9}
    assert len(set(digits.targets.tolist())) == 10 and (digits.targets == 9).sum() == 2 and len(looks) > 20


@pytest.mark.parametrize('wrong, message', [
    (lambda: class_shares(COUNTS, 'squareroot'), "unknown class sampling 'squareroot'"),
    (lambda: class_shares(COUNTS, 'clas'), "did you mean 'class'"),
    (lambda: class_shares([0, 0], 'class'), 'at least one image'),
    (lambda: class_shares(COUNTS, 'progressive', epoch=-1, epochs=4), 'got -1 of 4'),
    (lambda: class_shares(COUNTS, 'progressive', epochs=0), 'got 0 of 0'),
    (lambda: epoch_order([0, 1, 1], 'progressive', 1, seed=0), 'progressive class sampling needs epochs'),
    (lambda: epoch_order([], 'sqrt', 0, seed=0), 'at least one image'),
])
def test_refuses(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
