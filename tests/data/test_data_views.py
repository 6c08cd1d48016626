"""Two views of one image: the same draws at two sizes, the student's pixels untouched."""
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from timm_ltkd.data import (
    LongTailedDataset,
    SeededMixup,
    TwoViews,
    Views,
    create_eval_transform,
    create_train_loader,
    create_train_transform,
)
from timm_ltkd.data.seeded import seeded_generators
from timm_ltkd.data.transforms import ScaledCrop
from timm_ltkd.errors import UserError

PLAIN = dict(mean=(0., 0., 0.), std=(1., 1., 1.))


def picture(seed=0, size=96):
    """Smooth, so that it looks the same at every size."""
    rng = np.random.RandomState(seed)
    return Image.fromarray(rng.randint(0, 256, (5, 5, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)


def shrunk(view, size):
    return torch.nn.functional.interpolate(view[None], size, mode='bilinear', antialias=True)[0]


@pytest.mark.parametrize('options', [
    {},
    dict(crop_mode='pad', crop_padding=4),
    dict(crop_mode='rkrc'),
    dict(color_jitter=0.4),
    dict(aa='rand-m9-mstd0.5'),
    dict(aa='original'),
    dict(aa='augmix-m3'),
    dict(crop_mode='pad', vflip=0.5, hflip=0.5),
    dict(no_aug=True),
])
@pytest.mark.parametrize('teacher_size', [96, 16])
def test_both_show_the_same(options, teacher_size):
    student = create_train_transform(input_size=32, **PLAIN, **options)
    teacher = create_train_transform(input_size=teacher_size, drawn_for=(32, 32), **PLAIN, **options)
    both, image = TwoViews(student, teacher), picture(size=64)
    for seed in range(6):
        with seeded_generators(seed):
            views = both(image)
        with seeded_generators(seed):
            alone = student(image)
        assert torch.equal(views.student, alone), 'to the last bit as without a teacher'
        assert views.teacher.shape == (3, teacher_size, teacher_size)
        small, large = sorted([views.student, views.teacher], key=lambda view: view.shape[-1])
        differs = (shrunk(large, small.shape[-2:]) - small).abs()
        inner = differs[:, 3:-3, 3:-3]
        assert float(inner.mean()) < (0.05 if teacher_size > 32 else 0.08), seed  # a pixel's fraction is rounded


def test_other_draws_would_be_seen():
    student = create_train_transform(input_size=32, **PLAIN)
    teacher = create_train_transform(input_size=96, **PLAIN)
    differs = []
    for seed in range(6):
        with seeded_generators(seed):
            first = student(picture(size=64))
            second = teacher(picture(size=64))  # goes on drawing
        differs.append(float((shrunk(second, (32, 32)) - first).abs()[:, 3:-3, 3:-3].mean()))
    assert np.median(differs) > 0.1


def test_the_teacher_sees_the_image_itself():
    """Not what is left of it when it was shrunk for the student."""
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (96, 96, 3), dtype=np.uint8))
    views = TwoViews(
        create_train_transform(input_size=32, no_aug=True, **PLAIN),
        create_train_transform(input_size=96, no_aug=True, drawn_for=(32, 32), **PLAIN))(noise)
    assert torch.equal((views.teacher * 255).round().byte(), torch.from_numpy(np.array(noise)).permute(2, 0, 1))
    assert float(views.student.std()) < float(views.teacher.std()) / 2


def test_the_scaled_crop_cuts_what_the_crop_of_the_other_size_cuts():
    rows = np.repeat(np.arange(8, 40, dtype=np.uint8)[:, None], 32, axis=1)  # a row's value tells where it was
    small, large = Image.fromarray(rows), Image.fromarray(rows).resize((96, 96), Image.NEAREST)
    for seed in range(20):
        cut = []
        for image, size, drawn_for in ((small, (32, 32), (32, 32)), (large, (96, 96), (32, 32))):
            torch.manual_seed(seed)
            cut.append(np.asarray(ScaledCrop(size, drawn_for, 4)(image)))
        assert np.array_equal(cut[0], cut[1][1::3, 1::3])


def test_generators_go_on_as_if_one_view_had_been_made():
    student, teacher = (create_train_transform(input_size=size, color_jitter=0.4, **PLAIN) for size in (32, 48))
    after = []
    for transform in (student, TwoViews(student, teacher)):
        with seeded_generators(1):
            transform(picture())
            after.append((random.random(), float(torch.rand(())), float(np.random.rand())))
    assert after[0] == after[1]


@pytest.mark.parametrize('options, message', [
    (dict(reprob=0.5), 'random erasing'), (dict(crop_mode='rkrr'), 'rkrr')])
def test_what_means_another_thing_at_another_size_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_train_transform(input_size=48, drawn_for=(32, 32), **PLAIN, **options)


def test_they_travel_as_a_pair():
    batch = default_collate([(Views(torch.ones(3, 4, 4), torch.zeros(3, 8, 8)), 1)] * 2)
    assert isinstance(batch[0], Views)
    views = batch[0].to(torch.float64).contiguous(memory_format=torch.channels_last)
    assert isinstance(views, Views)
    assert [view.shape for view in views] == [(2, 3, 4, 4), (2, 3, 8, 8)]
    assert all(view.dtype == torch.float64 and view.is_contiguous(memory_format=torch.channels_last) for view in views)


@pytest.mark.parametrize('workers', [0, 1])
def test_through_a_loader(image_root, workers):
    from timm_ltkd import create_dataset
    dataset = create_dataset('lt/folder', root=image_root, split='train')
    assert isinstance(dataset, LongTailedDataset)
    student = create_train_transform(input_size=8, **PLAIN)
    both = TwoViews(student, create_train_transform(input_size=16, drawn_for=(8, 8), **PLAIN))
    loaders = [create_train_loader(dataset, transform, batch_size=5, seed=3, workers=workers)
               for transform in (student, both)]
    for (alone, target), (views, also) in zip(*loaders, strict=True):
        assert torch.equal(views.student, alone) and torch.equal(target, also)
        assert views.teacher.shape == (len(target), 3, 16, 16)


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('size', [4, 5])
def test_mixup_mixes_both_alike(mode, size):
    mixing = SeededMixup(3, seed=1, mixup_alpha=0.8, mode=mode)
    values = torch.arange(1., size + 1).view(-1, 1, 1, 1)
    views = Views(values.expand(size, 3, 4, 4).clone(), values.expand(size, 3, 8, 8).clone())
    target = torch.arange(size) % 3
    mixed, labels = mixing(views, target, 2, 5)
    assert isinstance(mixed, Views)
    assert torch.equal(mixed.student[:, 0, 0, 0], mixed.teacher[:, 0, 0, 0])
    alone, wanted = mixing(values.expand(size, 3, 4, 4).clone(), target, 2, 5)
    assert torch.equal(mixed.student, alone) and torch.equal(labels, wanted)
    assert not torch.equal(mixed.student[:, 0, 0, 0], values.flatten())


@pytest.mark.parametrize('transform', [
    create_eval_transform(input_size=(1, 24, 24), mean=(0.,), std=(1.,), crop_pct=1.),
    create_train_transform(input_size=(1, 24, 24), mean=(0.,), std=(1.,), no_aug=True),
    create_train_transform(input_size=(1, 24, 24), mean=(0.,), std=(1.,), crop_mode='pad', crop_padding=0, hflip=0.),
])
def test_grey_images_for_a_network_of_one_channel(transform):
    image = picture(size=24)
    found = (transform(image) * 255).round().byte()
    assert torch.equal(found[0], torch.from_numpy(np.array(image.convert('L')))) and found.shape == (1, 24, 24)


def test_auto_augmentation_works_on_colours():
    with pytest.raises(UserError, match='works on colours'):
        create_train_transform(input_size=(1, 24, 24), mean=(0.,), std=(1.,), aa='rand-m9')
