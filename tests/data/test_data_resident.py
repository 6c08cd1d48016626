"""Resident images are what the transforms make of the files, and what is drawn has the same distribution."""
import pytest
import torch
from pictures import Pictures
from torchvision.transforms import functional as F

from timm_ltkd.data import create_eval_transform, create_train_transform
from timm_ltkd.data.dataset import LongTailedDataset
from timm_ltkd.data.resident import (
    ResidentEvalLoader,
    ResidentImages,
    ResidentTrainLoader,
    padded_crop,
    take_apart,
)
from timm_ltkd.data.resident.random_numbers import keys
from timm_ltkd.data.sampler import EpochBatchSampler
from timm_ltkd.errors import UserError

CIFAR = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
COUNT, SIDE = 30, 12


def dataset(**kwargs) -> LongTailedDataset:
    return LongTailedDataset(Pictures(**kwargs))


def pad_transform(**kwargs):
    return create_train_transform(input_size=SIDE, crop_mode='pad', color_jitter=None, **CIFAR, **kwargs)


def by_hand(picture, row: list[int], padding: int) -> torch.Tensor:
    """torchvision's own functions, on one picture."""
    _, top, left, hflip, vflip = row
    image = F.pad(picture, [padding] * 4, fill=0)
    image = F.crop(image, top, left, SIDE, SIDE)
    image = F.hflip(image) if hflip else image
    image = F.vflip(image) if vflip else image
    return F.normalize(F.to_tensor(image), CIFAR['mean'], CIFAR['std'])


def rows_of(images, index=None, seed=0) -> torch.Tensor:
    index = torch.arange(len(images)) if index is None else index
    return images.rows(index, keys(seed, index))


@pytest.mark.parametrize('cut', ['_cut_by_index', '_cut_on_host'])
def test_a_batch_is_what_torchvision_makes_of_the_same_draws(cut, monkeypatch):
    data = dataset()
    images = ResidentImages(data, pad_transform(hflip=0.5, vflip=0.3, crop_padding=3))
    monkeypatch.setattr(padded_crop, '_cut_on_host', getattr(padded_crop, cut))
    rows = rows_of(images, torch.randperm(COUNT, generator=torch.Generator().manual_seed(2)))
    batch = images.batch(rows)
    assert batch.is_contiguous(memory_format=torch.channels_last) and batch.dtype == torch.float32
    for image, row in zip(batch, rows.tolist(), strict=True):
        assert torch.equal(image, by_hand(data.base.pictures[row[0]], row, 3))
    assert images.targets_of(rows).tolist() == [data.base.targets[i] for i in rows[:, 0]]
    assert rows[:, 3].any() and rows[:, 4].any() and not rows[:, 4].all()


def test_draws_are_uniform_over_all_windows_and_flips():
    images = ResidentImages(dataset(count=3), pad_transform(hflip=0.5, crop_padding=2))
    rows = torch.cat([rows_of(images, seed=seed) for seed in range(4000)])
    numbers = images.view_numbers(rows)
    assert torch.equal(numbers, (rows[:, 1] * 5 + rows[:, 2]) * 2 + rows[:, 3]) and images.views == 50
    counts = torch.bincount(numbers, minlength=50)
    expected = 3 * 4000 / 50
    assert len(counts) == 50 and ((counts - expected).square() / expected).sum() < 85.4  # chi-squared, 49, p = 0.001


@pytest.mark.parametrize('crop_pct', [1., 0.8])
def test_evaluation_is_the_transform_to_the_last_bit(crop_pct):
    data = dataset(sizes=[(12, 12), (20, 17), (17, 20)])
    transform = create_eval_transform(input_size=SIDE, crop_pct=crop_pct, **CIFAR)
    images = ResidentImages(data, transform)
    loaders = [ResidentEvalLoader(images, batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    seen = [(pixels, int(target), int(place)) for loader in loaders for batch in loader
            for pixels, target, place in zip(*batch, strict=True)]
    assert sorted(place for *_, place in seen) == list(range(COUNT)) and len(loaders[0]) == 4
    for pixels, target, place in seen:
        assert torch.equal(pixels, transform(data.base.pictures[place])) and target == data.targets[place]


def test_a_process_may_have_nothing_to_evaluate():
    images = ResidentImages(dataset(), create_eval_transform(input_size=SIDE, crop_pct=1., **CIFAR))
    shares = [list(ResidentEvalLoader(images, batch_size=4, rank=rank, world_size=40)) for rank in range(40)]
    assert [len(share) for share in shares] == [rank < len(images) for rank in range(40)]


def train_loader(seed=0, rank=0, world_size=1, batch_size=8, images=None, **kwargs):
    images = images or ResidentImages(dataset(), pad_transform())
    sampler = EpochBatchSampler(
        COUNT, batch_size, seed=seed, rank=rank, world_size=world_size, **kwargs)
    return ResidentTrainLoader(images, sampler, seed=seed)


def epoch_of(loader, epoch) -> tuple[torch.Tensor, torch.Tensor]:
    loader.batch_sampler.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader) and [len(b) for b, _ in batches] == loader.batch_sampler.batch_sizes()
    return torch.cat([b for b, _ in batches]), torch.cat([t for _, t in batches])


def test_an_epoch_depends_on_seed_and_epoch_alone():
    pixels, targets = epoch_of(train_loader(), 3)
    again, same = epoch_of(train_loader(), 3)
    assert torch.equal(pixels, again) and torch.equal(targets, same)
    used = train_loader()
    epoch_of(used, 0)
    assert torch.equal(epoch_of(used, 3)[0], pixels)
    assert not torch.equal(epoch_of(used, 4)[0], pixels)
    assert not torch.equal(epoch_of(train_loader(seed=1), 3)[0], pixels)


def test_two_processes_show_the_global_batches_of_one():
    images = ResidentImages(dataset(), pad_transform())
    whole, targets = epoch_of(train_loader(batch_size=10, images=images), 1)
    parts = [epoch_of(train_loader(rank=r, world_size=2, batch_size=5, images=images), 1) for r in range(2)]
    for rank, (pixels, labels) in enumerate(parts):
        assert torch.equal(pixels, whole[rank::2]) and torch.equal(labels, targets[rank::2])


def test_an_image_that_is_shown_again_is_drawn_again():
    order = torch.zeros(COUNT, dtype=torch.int64)
    pixels, _ = epoch_of(train_loader(order=lambda epoch: order), 0)
    assert len({image.numpy().tobytes() for image in pixels}) > COUNT // 2


@pytest.mark.parametrize(('options', 'step'), [
    (dict(aa='rand-m9'), 'RandAugment'),
    (dict(color_jitter=0.4), 'ColorJitter'),
])
def test_a_step_that_is_not_resident_is_named(options, step):
    transform = create_train_transform(**dict(input_size=SIDE, crop_mode='pad', **CIFAR) | options)
    with pytest.raises(UserError, match=step):
        take_apart(transform)


def test_no_augmentation_is_the_fixed_transform():
    data = dataset(sizes=[(12, 12), (18, 18)])
    transform = create_train_transform(input_size=SIDE, no_aug=True, **CIFAR)
    loader = train_loader(images=ResidentImages(data, transform))
    pixels, _ = epoch_of(loader, 0)
    order = loader.batch_sampler.shown().index.tolist()
    for image, i in zip(pixels, order, strict=False):
        assert torch.equal(image, transform(data.base.pictures[i]))
