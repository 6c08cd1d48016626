"""Crops that are resized, of a whole batch: as Pillow makes them, of parts that timm would draw."""
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data.transforms import (
    CenterCropOrPad,
    RandomCropOrPad,
    RandomResizedCropAndInterpolation,
    ResizeKeepRatio,
    crop_or_pad,
    str_to_interp_mode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset
from torchvision.transforms import functional as F

from timm_ltkd.data import create_eval_transform, create_train_transform
from timm_ltkd.data.dataset import LongTailedDataset
from timm_ltkd.data.resident import ResidentImages, padded_crop
from timm_ltkd.data.resident.erasing import Erasing
from timm_ltkd.data.resident.filters import FILTERS
from timm_ltkd.data.resident.random_numbers import keys, uniforms
from timm_ltkd.data.resident.resized_crop import KeptRatio, RandomBox, ResampledCrop
from timm_ltkd.errors import UserError

PIXELS = dict(mean=(0., 0., 0.), std=(1., 1., 1.))


class Pictures(Dataset):
    """Smooth and noisy pictures of one size, or several."""

    def __init__(self, *sizes: tuple[int, int], count: int = 12):
        rng, self.pictures = np.random.default_rng(0), []
        for i in range(count):
            height, width = sizes[i % len(sizes)]
            small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
            noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            self.pictures.append(small if i % 2 else Image.fromarray(noise))
        self.targets, self.transform = [0] * count, None

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        image = self.pictures[index]
        return image if self.transform is None else self.transform(image), 0


@pytest.fixture(params=['_cut_on_host', '_cut_by_weights'])
def cut(request, monkeypatch):
    """Crops are made as on a device, too."""
    monkeypatch.setattr(ResampledCrop, '_cut_on_host', getattr(ResampledCrop, request.param))
    return request.param


def resident(transform, *sizes, side=None) -> ResidentImages:
    data = LongTailedDataset(Pictures(*sizes), class_names=['a'])
    return ResidentImages(data, transform, side=side)


def rows_of(images, seed=0) -> torch.Tensor:
    index = torch.arange(len(images))
    return images.rows(index, keys(seed, index))


def grey_levels(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().int()


def resize(picture, height, width, interpolation):
    """Rows before columns, whatever Pillow does if it is asked for both."""
    mode = str_to_interp_mode(interpolation)
    return F.resize(F.resize(picture, [picture.height, width], mode), [height, width], mode)


def check_pixels(images: ResidentImages, by_hand: Callable, pictures, cut, seeds=4):
    """Pillow's on the host; elsewhere at most one grey level from them, and seldom that."""
    differences = []
    for seed in range(seeds):
        rows = rows_of(images, seed)
        for image, row in zip(images.batch(rows), rows.tolist(), strict=True):
            expected = by_hand(pictures[row[0]], row)
            expected = F.hflip(expected) if row[10] else expected
            expected = F.vflip(expected) if row[11] else expected
            differences.append((grey_levels(image) - F.pil_to_tensor(expected).int()).abs())
    differences = torch.stack(differences)
    assert differences.max() <= (cut == '_cut_by_weights') and (differences > 0).float().mean() < 0.03


@pytest.mark.parametrize('size', [(16, 16), (40, 24)])
@pytest.mark.parametrize('interpolation', [*FILTERS, 'random'])
def test_resized_crops_are_pillows(interpolation, size, cut):
    transform = create_train_transform(input_size=size, interpolation=interpolation, vflip=0.3, **PIXELS)
    images = resident(transform, (30, 37))
    names = ('bilinear', 'bicubic') if interpolation == 'random' else (interpolation,)

    def by_hand(picture, row):
        (top, height, _, _), (left, width, _, _) = row[1:5], row[5:9]
        return resize(F.crop(picture, top, left, height, width), *size, names[row[9]])
    check_pixels(images, by_hand, images._dataset.base.pictures, cut)
    rows = torch.cat([rows_of(images, seed) for seed in range(4)])
    assert len(rows[:, 9].unique()) == len(names) and len(rows[:, 10].unique()) == len(rows[:, 11].unique()) == 2


@pytest.mark.parametrize('mode', ['rkrc', 'rkrr'])
@pytest.mark.parametrize('size', [(16, 16), (24, 20)])
def test_crops_of_kept_ratio_are_pillows(mode, size, cut):
    transform = create_train_transform(
        input_size=size, crop_mode=mode, interpolation='bicubic', scale=(0.5, 1.6), ratio=(0.6, 1.7), **PIXELS)
    images = resident(transform, (22, 19))

    def by_hand(picture, row):
        (_, _, height, top), (_, _, width, left) = row[1:5], row[5:9]
        picture = resize(picture, height, width, 'bicubic')
        if mode == 'rkrc':
            return CenterCropOrPad(size, padding_mode='reflect')(picture)
        return crop_or_pad(picture, top, left, *size, padding_mode='reflect')
    check_pixels(images, by_hand, images._dataset.base.pictures, cut, seeds=6)


def test_whole_crops_are_nearly_pillows_whichever_line_it_resizes_first(cut):
    images = resident(create_train_transform(input_size=16, **PIXELS), (30, 37))
    rows = rows_of(images)
    for image, (index, *lines, which, hflip, _) in zip(images.batch(rows), rows.tolist(), strict=True):
        (top, height, _, _), (left, width, _, _) = lines[:4], lines[4:]
        mode = str_to_interp_mode(('bilinear', 'bicubic')[which])
        expected = F.resized_crop(images._dataset.base.pictures[index], top, left, height, width, (16, 16), mode)
        expected = F.hflip(expected) if hflip else expected
        assert (grey_levels(image) - F.pil_to_tensor(expected).int()).abs().float().mean() < 0.6


@pytest.mark.parametrize('name', ['nearest', 'box'])
def test_a_filter_that_is_not_there_is_named(name):
    with pytest.raises(UserError, match=f"'{name}'.*bilinear"):
        resident(create_train_transform(input_size=16, interpolation=name, **PIXELS), (16, 16))


def timms(draw: Callable, count: int) -> np.ndarray:
    state = random.getstate()
    random.seed(0)
    values = np.array([draw() for _ in range(count)])
    random.setstate(state)
    return values


def draws_of(part, count, stored, size) -> torch.Tensor:
    return part.draw(uniforms(keys(1, torch.arange(count)), part.uniforms), stored, size)


def check_same_distribution(first: np.ndarray, second: np.ndarray):
    """Each column, and the first two together, by chi-squared tests."""
    columns = [*zip(first.T, second.T, strict=True)]
    columns.append((first[:, 0] * 1000 + first[:, 1], second[:, 0] * 1000 + second[:, 1]))
    for values in columns:
        known = np.unique(np.concatenate(values))
        table = np.stack([(each[:, None] == known).sum(0) for each in values])
        table = np.concatenate([table[:, table.sum(0) >= 20], table[:, table.sum(0) < 20].sum(1, keepdims=True)], 1)
        table = table[:, table.sum(0) > 0]
        assert table.shape[1] == 1 or stats.chi2_contingency(table).pvalue > 0.0005


@pytest.mark.parametrize(('stored', 'scale', 'ratio'), [
    ((24, 24), (0.08, 1.), (3 / 4, 4 / 3)),
    ((14, 40), (0.3, 1.), (3 / 4, 4 / 3)),  # often the centre
    ((40, 14), (0.5, 0.9), (0.5, 0.6)),
    ((20, 30), (0.9, 1.), (2., 3.)),
])
def test_boxes_have_the_distribution_of_timms(stored, scale, ratio):
    picture = Image.new('L', stored[::-1])
    theirs = timms(lambda: RandomResizedCropAndInterpolation.get_params(picture, scale, ratio), 8000)
    lines = draws_of(RandomBox(scale, ratio), 8000, stored, (8, 8))
    check_same_distribution(theirs[:, [2, 3, 0, 1]], lines[:, [1, 5, 0, 4]].numpy())
    areas = [(values[0] * values[1]) for values in (theirs[:, 2:].T, lines[:, [1, 5]].T.numpy())]
    assert stats.ks_2samp(*areas).pvalue > 0.001
    assert (lines[:, [2, 6]] == 8).all() and not lines[:, [3, 7]].any()


@pytest.mark.parametrize('centred', [True, False])
def test_kept_ratios_have_the_distribution_of_timms(centred):
    stored, size, scale, ratio = (30, 40), (20, 24), (0.6, 1.5), (0.7, 1.4)
    picture = Image.new('L', stored[::-1])
    resize = ResizeKeepRatio(
        size, random_scale_prob=0.5, random_scale_range=scale, random_scale_area=True, random_aspect_prob=0.5,
        random_aspect_range=ratio)

    def draw():
        height, width = resize.get_params(picture, size, 0., 0.5, scale, True, 0.5, ratio)
        offset = RandomCropOrPad.get_params(Image.new('L', (width, height)), size)
        return height, width, *((0, 0) if centred else offset)
    lines = draws_of(KeptRatio(scale, ratio, (0.5, 0.5), centred), 8000, stored, size).numpy()
    ours = lines[:, [2, 6, 3, 7]]
    if centred:
        assert (np.abs(ours[:, 2] - (ours[:, 0] - size[0]) / 2) <= 0.5).all()
        ours = ours * [1, 1, 0, 0]
    check_same_distribution(timms(draw, 8000), ours)


def test_images_of_any_size_are_kept_as_squares():
    transform = create_train_transform(input_size=16, scale=(1., 1.), ratio=(1., 1.), hflip=0., **PIXELS)
    images = resident(transform, (30, 37), (50, 41), side=20)
    assert images.layout.shape == (12, 20, 20, 3) and images.size == (16, 16)
    for pixels, picture in zip(images.images, images._dataset.base.pictures, strict=True):
        expected = F.center_crop(F.resize(picture, 20, str_to_interp_mode('bicubic')), 20)
        assert torch.equal(pixels.permute(2, 0, 1), F.pil_to_tensor(expected))


def test_images_of_several_sizes_need_one():
    transform = create_train_transform(input_size=16, **PIXELS)
    with pytest.raises(UserError, match=r'number 1 is 50x41 of 3 channels and the first 30x37 .*--resident-size'):
        _ = resident(transform, (30, 37), (50, 41)).images
    with pytest.raises(UserError, match='crops that resize'):
        resident(create_train_transform(input_size=16, crop_mode='pad', **PIXELS), (16, 16), side=16)
    with pytest.raises(UserError, match='at least 1'):
        resident(transform, (16, 16), side=0)


@pytest.mark.parametrize('options', [dict(crop_mode='border', crop_pct=0.8), dict(crop_mode='squash'), {}])
def test_evaluation_of_any_shape_is_the_transform(options):
    transform = create_eval_transform(input_size=(18, 14), interpolation='bicubic', **options, **PIXELS)
    images = resident(transform, (30, 37), (20, 41))
    batch = images.batch(torch.arange(12)[:, None])
    for image, picture in zip(batch, images._dataset.base.pictures, strict=True):
        assert torch.equal(image, transform(picture))


def test_nothing_is_done_in_low_precision(cut):
    images = resident(create_train_transform(input_size=16, **PIXELS), (30, 37))
    rows = rows_of(images)
    with torch.autocast('cpu', torch.bfloat16):
        inside = images.batch(rows)
    assert torch.equal(inside, images.batch(rows))


def test_grey_images_are_resized_too(cut):
    transform = create_train_transform(input_size=(1, 16, 16), mean=(0.,), std=(1.,))
    images = resident(transform, (30, 37))
    batch = images.batch(rows_of(images))
    assert batch.shape == (12, 1, 16, 16) and images.layout.channels == 1 and batch.std() > 0.1


class Waits(TorchDispatchMode):
    """Counts what would make a host wait for a device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'masked_select')):
            self.found.append(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize('cut', ['_cut_by_weights'], indirect=True)
@pytest.mark.parametrize('options', [
    dict(crop_mode='pad', vflip=0.5), dict(no_aug=True), *(dict(crop_mode=mode, reprob=0.5, remode=remode, recount=2)
    for mode, remode in (('rrc', 'pixel'), ('rkrc', 'rand'), ('rkrr', 'const')))])
def test_no_batch_waits_for_the_device(options, cut, monkeypatch):
    monkeypatch.setattr(padded_crop, '_cut_on_host', padded_crop._cut_by_index)
    monkeypatch.setattr(Erasing, 'erase', Erasing._erased)
    images = resident(create_train_transform(input_size=16, **options, **PIXELS), (30, 37))
    rows = images.place(rows_of(images))
    with Waits() as waits:
        batch, targets = images.batch(rows), images.targets_of(rows)
    assert batch.shape == (12, 3, 16, 16) and targets.shape == (12,) and not waits.found
    with Waits() as waits:
        rows[0, 0].item()
    assert waits.found
