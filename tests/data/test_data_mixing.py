"""Mixup and CutMix: timm's, repeatable, with odd batches, and no effect on anything else."""
import random

import numpy as np
import pytest
import torch
from timm.data import Mixup

from timm_ltkd.data import SeededMixup, check_cutmix_minmax
from timm_ltkd.data.seeded import seeded_generators
from timm_ltkd.errors import UserError

BOTH = dict(mixup_alpha=0.8, cutmix_alpha=1.)


def batch(size, side=16):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 3, side, side, generator=generator), torch.arange(size) % 5


@pytest.mark.parametrize('options', [
    BOTH, dict(mixup_alpha=1., label_smoothing=0.1), dict(mixup_alpha=0., cutmix_minmax=(0.2, 0.8)),
    BOTH | dict(mode='pair', prob=0.5), BOTH | dict(mode='elem', switch_prob=0.2)])
def test_is_timms(options):
    mine, timms = SeededMixup(5, seed=7, rank=2, **options), Mixup(num_classes=5, **{'label_smoothing': 0., **options})
    for step in range(5):
        mixed, targets = mine(*batch(6), epoch=3, step=step)
        with seeded_generators(7, 3, -1, step, 2):
            expected, expected_targets = timms(*batch(6))
        assert torch.equal(mixed, expected) and torch.equal(targets, expected_targets)
        assert targets.dtype == torch.float32 and targets.shape == (6, 5)
        assert torch.allclose(targets.sum(1), torch.ones(6))


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_the_last_image_of_an_odd_batch_stays(mode):
    mix = SeededMixup(5, seed=0, mode=mode, label_smoothing=0.2, mixup_alpha=1.)
    images, labels = batch(7)
    mixed, targets = mix(images.clone(), labels, epoch=0, step=0)
    assert mixed.shape == images.shape and targets.shape == (7, 5)
    assert torch.equal(mixed[6], images[6])
    assert targets[6].tolist() == pytest.approx([0.04, 0.84, 0.04, 0.04, 0.04])
    assert not any(torch.equal(mixed[i], images[i]) for i in range(6))
    whole, whole_targets = mix(images[:6].clone(), labels[:6], epoch=0, step=0)
    assert torch.equal(whole, mixed[:6]) and torch.equal(whole_targets, targets[:6])
    mixed, targets = mix(images[:1].clone(), labels[:1], epoch=0, step=0)
    assert torch.equal(mixed, images[:1]) and targets.tolist() == [pytest.approx([0.84, 0.04, 0.04, 0.04, 0.04])]


def test_labels_are_mixed_as_the_images_are():
    mix = SeededMixup(2, seed=0, **BOTH)
    for step in range(20):
        images = torch.tensor([1., 1., 0., 0.]).view(4, 1, 1, 1).expand(4, 3, 16, 16).clone()
        mixed, targets = mix(images, torch.tensor([1, 1, 0, 0]), epoch=0, step=step)
        assert torch.allclose(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-6)


def test_draws_depend_on_seed_epoch_step_and_rank():
    def mixed(seed=0, rank=0, epoch=0, step=0):
        return SeededMixup(5, seed=seed, rank=rank, mixup_alpha=1.)(*batch(4), epoch=epoch, step=step)[0]

    assert torch.equal(mixed(1, 1, 1, 1), mixed(1, 1, 1, 1))
    others = [mixed(), mixed(seed=1), mixed(rank=1), mixed(epoch=1), mixed(step=1)]
    assert len({other.numpy().tobytes() for other in others}) == 5


def test_no_global_generator_moves():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    SeededMixup(5, seed=0, **BOTH)(*batch(4), epoch=0, step=0)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2][1]).all() and np.random.get_state()[2] == before[2][2]


def test_off_from_an_epoch_on():
    mix = SeededMixup(5, seed=0, off_epoch=2, label_smoothing=0.1, mixup_alpha=1.)
    for epoch, is_mixed in ((0, True), (1, True), (2, False), (3, False), (1, True)):
        images, labels = batch(4)
        mixed, targets = mix(images.clone(), labels, epoch=epoch, step=0)
        assert torch.equal(mixed, images) is not is_mixed
        smooth = torch.nn.functional.one_hot(labels, 5) * 0.9 + 0.02
        assert torch.allclose(targets, smooth) is not is_mixed


@pytest.mark.parametrize('minmax, size, fits', [
    ((0.2, 0.8), (3, 32, 32), True), ((0.8, 0.2), (3, 32, 32), False), ((0.5, 0.5), (3, 32, 32), False),
    ((0.2, 0.24), (3, 8, 64), False), ((0.2, 0.26), (3, 8, 64), True), ((0., 1.), (3, 1, 1), True)])
def test_boxes_of_cutmix(minmax, size, fits):
    if fits:
        check_cutmix_minmax(minmax, size)
        SeededMixup(5, seed=0, mixup_alpha=0., cutmix_minmax=minmax)(torch.zeros(2, *size), torch.arange(2), 0, 0)
    else:
        with pytest.raises(UserError, match=f'{minmax[0]:g} to {minmax[1]:g} of {min(size[1:])} pixels'):
            check_cutmix_minmax(minmax, size)
