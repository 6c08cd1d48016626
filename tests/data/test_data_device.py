"""Batches on a device: bytes until they are there, and then what the transform makes, to the last bit."""
from functools import partial

import pytest
import torch
from pictures import Pictures
from timm.data.transforms import MaybeToTensor
from torchvision import transforms

from timm_ltkd.data import (
    LongTailedDataset,
    TwoViews,
    Views,
    create_eval_loader,
    create_eval_transform,
    create_train_loader,
    create_train_transform,
    views_per_image,
)
from timm_ltkd.data.device import split_normalisation

CPU = torch.device('cpu')
PIXELS = dict(input_size=(3, 12, 16), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = dict(input_size=(1, 12, 16), mean=(0.3,), std=(0.7,))
TRANSFORMS = {
    'pad': create_train_transform(crop_mode='pad', vflip=0.5, **PIXELS),
    'rrc': create_train_transform(crop_mode='rrc', color_jitter=0.4, **PIXELS),
    'aa': create_train_transform(aa='rand-m9-mstd0.5-inc1', **PIXELS),
    'no_aug': create_train_transform(no_aug=True, **PIXELS),
    'eval': create_eval_transform(**PIXELS),
    'grey': create_train_transform(crop_mode='pad', **GREY),
    'grey_eval': create_eval_transform(**GREY),
    'one_for_all': create_train_transform(crop_mode='pad', **{**PIXELS, 'mean': (0.4,), 'std': (0.2,)}),
    'plain_torchvision': transforms.Compose([
        transforms.Resize((12, 16)), transforms.ToTensor(), transforms.Normalize(PIXELS['mean'], PIXELS['std'])]),
}
ERASING = create_train_transform(crop_mode='pad', reprob=0.9, **PIXELS)
Images = partial(Pictures, 11, [(20, 24)])


def batches(images, transform, device, **options):
    loader = create_train_loader(
        LongTailedDataset(images), transform, batch_size=4, seed=3, device=device, **options)
    loader.batch_sampler.set_epoch(1)
    return list(loader)


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        for part, other in zip(ours, theirs, strict=True):
            assert part.dtype == other.dtype and torch.equal(part, other)


@pytest.fixture
def travelled(monkeypatch):
    """The dtypes of what workers hand over."""
    seen = []

    def noting(transform):
        begun, finish = split_normalisation(transform)

        def note(pixels):
            seen.extend(part.dtype for part in (pixels if isinstance(pixels, Views) else [pixels]))
            return finish(pixels)
        return begun, note
    monkeypatch.setattr('timm_ltkd.data.loader.split_normalisation', noting)
    return seen


@pytest.mark.parametrize('name', TRANSFORMS)
def test_the_same_bits_and_they_travel_as_bytes(name, travelled):
    transform, images = TRANSFORMS[name], Images()
    assert_same(batches(images, transform, CPU), batches(images, transform, None))
    assert set(travelled) == {torch.uint8}


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_the_same_bits_from_workers(travelled):
    assert_same(batches(Images(), TRANSFORMS['rrc'], CPU, workers=2), batches(Images(), TRANSFORMS['rrc'], None))
    assert set(travelled) == {torch.uint8}


def test_evaluation_has_positions_too(travelled):
    found, expected = (
        list(create_eval_loader(
            LongTailedDataset(Images()), TRANSFORMS['eval'], batch_size=4, rank=1, world_size=2, device=device))
        for device in (CPU, None))
    assert_same(found, expected)
    assert [position for *_, index in found for position in index.tolist()] == [1, 3, 5, 7, 9]
    assert set(travelled) == {torch.uint8}


def test_two_views(travelled):
    """Each has a normalisation of its own."""
    teacher = {'input_size': (3, 24, 32), 'mean': (0.5,) * 3, 'std': (0.1,) * 3}
    both = TwoViews(
        create_train_transform(crop_mode='pad', **PIXELS),
        create_train_transform(crop_mode='pad', drawn_for=(3, 12, 16), **teacher))
    found, expected = batches(Images(), both, CPU), batches(Images(), both, None)
    for (ours, target), (theirs, expected_target) in zip(found, expected, strict=True):
        assert torch.equal(target, expected_target) and isinstance(ours, Views)
        assert torch.equal(ours.student, theirs.student) and torch.equal(ours.teacher, theirs.teacher)
    assert set(travelled) == {torch.uint8}


def test_erasing_works_on_normalised_pixels(travelled):
    assert_same(batches(Images(), ERASING, CPU), batches(Images(), ERASING, None))
    assert set(travelled) == {torch.float32}


@pytest.mark.parametrize('mode', ['L', '1', 'F', 'RGBA', 'P'])
def test_images_of_any_mode(mode):
    transform = create_eval_transform(input_size=(12, 16), mean=(0.4,), std=(0.2,))
    assert_same(batches(Images(mode=mode), transform, CPU), batches(Images(mode=mode), transform, None))


def test_tensors_are_normalised_where_they_were(travelled):
    class Tensors(Pictures):
        def __getitem__(self, index):
            return self.transform(transforms.functional.to_tensor(self.pictures[index])), self.targets[index]
    transform = transforms.Compose([MaybeToTensor(), transforms.Normalize(PIXELS['mean'], PIXELS['std'])])
    assert_same(batches(Tensors(), transform, CPU), batches(Tensors(), transform, None))
    assert set(travelled) == {torch.float32}


@pytest.mark.parametrize('transform', [
    transforms.PILToTensor(), transforms.ToTensor(),
    transforms.Compose([transforms.PILToTensor()]), transforms.Compose([transforms.ToTensor()])])
def test_what_does_not_normalise_is_left_as_it_is(transform):
    assert_same(batches(Images(), transform, CPU), batches(Images(), transform, None))


def test_an_image_that_never_changes_has_one_view():
    for transform, views in ((TRANSFORMS['no_aug'], 1), (TRANSFORMS['rrc'], None)):
        for device in (CPU, None):
            loader = create_train_loader(
                LongTailedDataset(Images()), transform, batch_size=4, seed=3, device=device)
            assert views_per_image(loader) == views


@pytest.mark.parametrize('name', ['eval', 'grey_eval'])
def test_the_layout_is_that_of_an_image_with_so_many_channels(name):
    """One channel is contiguous in either layout, and convolutions go by the strides."""
    (made, _), *_ = batches(Images(), TRANSFORMS[name], CPU)
    assert made.is_contiguous() == (name == 'grey_eval') and made.is_contiguous(memory_format=torch.channels_last)
    if name == 'grey_eval':
        assert made.stride() == batches(Images(), TRANSFORMS[name], None)[0][0].stride()


def test_channels_that_do_not_fit_are_refused_as_ever():
    transform = create_eval_transform(input_size=(12, 18), mean=(0.1, 0.2, 0.3), std=(1.,) * 3)
    for device in (CPU, None):
        with pytest.raises(RuntimeError, match='output with shape'):
            batches(Images(mode='L'), transform, device)
