"""Transforms: the CIFAR crop to the pixel, timm's own otherwise, and refusals."""
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from timm_ltkd.data import create_eval_transform, create_train_transform
from timm_ltkd.errors import UserError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8))
COMMON = dict(mean=MEAN, std=STD)


def drawn(transform, image=IMAGE, seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return transform(image)


@pytest.mark.parametrize('interpolation', ['random', 'bicubic'])
def test_padded_crop_is_the_cifar_recipe(interpolation):
    ours = create_train_transform(input_size=(3, 32, 32), crop_mode='pad', interpolation=interpolation, **COMMON)
    recipe = transforms.Compose([
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])
    outputs = [drawn(ours, seed=seed) for seed in range(20)]
    assert all(torch.equal(output, drawn(recipe, seed=seed)) for seed, output in enumerate(outputs))
    assert len({output.sum().item() for output in outputs}) > 10


def test_padded_crop_settings_reach_the_pixels():
    still = create_train_transform(input_size=32, crop_mode='pad', crop_padding=0, hflip=0., **COMMON)
    plain = create_eval_transform(input_size=32, crop_pct=1., **COMMON)
    assert torch.equal(still(IMAGE), plain(IMAGE))
    flipped = create_train_transform(input_size=32, crop_mode='pad', crop_padding=0, hflip=1., **COMMON)
    assert torch.equal(flipped(IMAGE), plain(IMAGE).flip(-1))
    upside_down = create_train_transform(input_size=32, crop_mode='pad', crop_padding=0, hflip=0., vflip=1., **COMMON)
    assert torch.equal(upside_down(IMAGE), plain(IMAGE).flip(-2))
    larger = create_train_transform(input_size=(40, 48), crop_mode='pad', **COMMON)
    assert larger(IMAGE).shape == (3, 40, 48)


@pytest.mark.parametrize('shape', [(32, 96), (50, 40)])
def test_an_image_that_is_not_square_is_cropped_as_in_evaluation_and_not_squashed(shape):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (*shape, 3), dtype=np.uint8))
    still = create_train_transform(
        input_size=32, crop_mode='pad', crop_padding=0, hflip=0., interpolation='bicubic', **COMMON)
    plain = create_eval_transform(input_size=32, crop_pct=1., interpolation='bicubic', **COMMON)
    assert torch.equal(still(image), plain(image))


@pytest.mark.parametrize('crop_mode', ['rrc', 'rkrc', 'rkrr'])
def test_other_modes_are_timms(crop_mode):
    options = dict(hflip=0.3, vflip=0.2, color_jitter=0.4, interpolation='bicubic', scale=(0.5, 1.), ratio=(0.8, 1.25))
    ours = create_train_transform(
        input_size=24, crop_mode=crop_mode, reprob=0.5, remode='pixel', recount=2, **options, **COMMON)
    timms = create_transform(
        24, is_training=True, train_crop_mode=crop_mode, re_prob=0.5, re_mode='pixel', re_count=2, **options, **COMMON)
    for seed in range(5):
        assert torch.equal(drawn(ours, seed=seed), drawn(timms, seed=seed))


def test_augmentation_works_with_the_padded_crop():
    transform = create_train_transform(
        input_size=32, crop_mode='pad', color_jitter=(0.1, 0.2, 0.3, 0.1), reprob=0.25, remode='rand', recount=3,
        **COMMON)
    kinds = [type(step).__name__ for step in transform.transforms]
    assert kinds[:4] == ['Resize', 'CenterCrop', 'RandomCrop', 'RandomHorizontalFlip'] and 'ColorJitter' in kinds
    erasing = transform.transforms[-1]
    assert isinstance(erasing, RandomErasing) and erasing.probability == 0.25 and erasing.max_count == 3
    with_aa = create_train_transform(input_size=32, crop_mode='pad', aa='rand-m9-mstd0.5-inc1', **COMMON)
    assert 'RandAugment' in [type(step).__name__ for step in with_aa.transforms]
    assert drawn(with_aa).shape == (3, 32, 32)


@pytest.mark.parametrize('aa', ['rand-m10-n16-inc1', 'v0', 'augmix-m10-w6-d4'])
def test_the_strongest_posterize_gives_black_and_no_error(aa):
    transform = create_train_transform(input_size=32, aa=aa, **COMMON)
    step = next(s for s in transform.transforms if hasattr(s, 'ops') or hasattr(s, 'policy'))
    ops = [*getattr(step, 'ops', ()), *(op for sequence in getattr(step, 'policy', ()) for op in sequence)]
    posterizing = [op for op in ops if op.name.startswith('Posterize')]
    assert posterizing
    for op in posterizing:
        assert op.aug_fn(IMAGE, 0).getextrema() == ((0, 0),) * 3
        assert np.array_equal(op.aug_fn(IMAGE, 3), np.asarray(IMAGE) & 0b11100000)
        assert op.aug_fn(IMAGE, 8) is IMAGE
    for seed in range(20):
        assert drawn(transform, seed=seed).isfinite().all()


def test_no_aug_is_still():
    transform = create_train_transform(input_size=32, crop_mode='pad', no_aug=True, reprob=1., **COMMON)
    assert torch.equal(drawn(transform, seed=0), drawn(transform, seed=1))


def test_eval_transform_is_timms():
    big = IMAGE.resize((50, 41))
    for crop_pct in (None, 0.9, 1.):
        ours = create_eval_transform(input_size=(3, 24, 24), crop_pct=crop_pct, interpolation='bicubic', **COMMON)
        timms = create_transform(24, crop_pct=crop_pct, interpolation='bicubic', **COMMON)
        assert torch.equal(ours(big), timms(big))
    squashed = create_eval_transform(input_size=24, crop_pct=1., crop_mode='squash', **COMMON)
    assert not torch.equal(squashed(big), create_eval_transform(input_size=24, crop_pct=1., **COMMON)(big))


@pytest.mark.parametrize('change, message', [
    (dict(crop_mode='pda'), "did you mean 'pad'"),
    (dict(crop_padding=-1), 'crop padding'),
    (dict(hflip=1.5), 'hflip is a probability'),
    (dict(reprob=-0.1), 'reprob is a probability'),
    (dict(remode='pixels'), "did you mean 'pixel'"),
    (dict(recount=0), 'count of at least 1'),
    (dict(interpolation='cubic'), "did you mean 'bicubic'"),
    (dict(scale=(0.1, 1.), crop_mode='pad'), "scale has no meaning with the crop mode 'pad'"),
    (dict(ratio=(2., 1.)), 'ratio must be two numbers'),
    (dict(scale=(0., 1.)), 'scale must be two numbers'),
    (dict(color_jitter=-1.), 'colour jitter'),
    (dict(color_jitter=(0.4, 0.4)), 'colour jitter'),
    (dict(color_jitter=(0.4, 0.4, 0.4, 0.6)), 'colour jitter'),
    (dict(aa='rand-q9'), "auto-augment string 'rand-q9'"),
    (dict(aa='nonsense'), "auto-augment string 'nonsense'"),
    (dict(input_size=0), 'input size'),
    (dict(input_size=(1, 2, 3, 4)), 'input size'),
    (dict(mean=(0.5,)), 'per channel'),
    (dict(std=(0.2, 0., 0.2)), 'std above 0'),
])
def test_train_transform_refuses(change, message):
    with pytest.raises(UserError) as error:
        create_train_transform(**dict(input_size=32, **COMMON) | change)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('change, message', [
    (dict(crop_pct=0.), 'crop_pct'),
    (dict(interpolation='random'), 'interpolation'),
    (dict(crop_mode='pad'), 'crop mode'),
])
def test_eval_transform_refuses(change, message):
    with pytest.raises(UserError, match=message):
        create_eval_transform(**dict(input_size=32, **COMMON) | change)
