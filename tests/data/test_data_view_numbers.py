"""The number of a view names its pixels: equal numbers are equal pixels, and there are no more than were promised."""
import pytest
import torch
from pictures import Pictures

from timm_ltkd.data import (
    LongTailedDataset,
    create_train_loader,
    create_train_transform,
    epoch_plan,
    epoch_views,
    views_per_image,
)
from timm_ltkd.data.resident import ResidentImages
from timm_ltkd.errors import UserError

COUNT, SIDE = 12, 8
PIXELS = dict(input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
PADDED = create_train_transform(crop_mode='pad', crop_padding=1, **PIXELS)
ERASED = create_train_transform(crop_mode='pad', crop_padding=1, reprob=0.5, **PIXELS)
DATA = LongTailedDataset(Pictures(COUNT, [(SIDE, SIDE)]))


def loader_of(transform, resident, **options):
    images = ResidentImages(DATA, transform) if resident else None
    return create_train_loader(DATA, transform, batch_size=4, images=images, **{'seed': 0, **options})


def shown(loader, epochs) -> list[tuple[int, bytes]]:
    """The number and the pixels of each showing."""
    pairs = []
    for epoch in range(epochs):
        epoch_plan(loader).set_epoch(epoch)
        views = epoch_views(loader)
        assert views.dtype == torch.int64 and views.device.type == 'cpu'
        pixels = [image.numpy().tobytes() for batch, _ in loader for image in batch]
        pairs += zip(views.tolist(), pixels, strict=True)
    return pairs


def check_one_to_one(pairs, views):
    pixels_of = {}
    for number, pixels in pairs:
        assert 0 <= number < COUNT * views and pixels_of.setdefault(number, pixels) == pixels
    return pixels_of


def test_the_number_of_a_padded_crop_is_its_pixels():
    loader = loader_of(PADDED, resident=True)
    assert views_per_image(loader) == 3 * 3 * 2
    pixels_of = check_one_to_one(shown(loader, 40), 18)
    assert len(set(pixels_of.values())) == len(pixels_of) > 150
    other = check_one_to_one(shown(loader_of(PADDED, resident=True, seed=1), 5), 18)
    assert all(pixels_of[number] == pixels for number, pixels in other.items() if number in pixels_of)


@pytest.mark.parametrize('sampling', ['instance', 'class'])
@pytest.mark.parametrize('resident', [False, True])
@pytest.mark.parametrize('transform', [PADDED, ERASED], ids=['padded', 'erased'])
def test_stored_views_are_all_that_is_shown(transform, resident, sampling):
    loader = loader_of(transform, resident, stored_views=3, class_sampling=sampling)
    assert views_per_image(loader) == 3
    pixels_of = check_one_to_one(shown(loader, 9), 3)
    assert len(pixels_of) == 3 * COUNT and len(set(pixels_of.values())) > 2 * COUNT
    assert check_one_to_one(shown(loader_of(transform, resident, stored_views=3, seed=1), 3), 3) != pixels_of


def test_stored_views_are_shown_in_turn():
    order = torch.zeros(COUNT, dtype=torch.int64)
    loader = loader_of(PADDED, resident=True, stored_views=5)
    loader.batch_sampler.order = lambda epoch: order
    for epoch in (0, 7):
        epoch_plan(loader).set_epoch(epoch)
        assert epoch_views(loader).tolist() == [(epoch + again) % 5 for again in range(COUNT)]


def test_processes_agree_on_the_views():
    whole = loader_of(PADDED, resident=True)
    epoch_plan(whole).set_epoch(2)
    for rank in range(2):
        part = loader_of(PADDED, resident=True, rank=rank, world_size=2)
        epoch_plan(part).set_epoch(2)
        assert torch.equal(epoch_views(part), epoch_views(whole)[rank::2])


@pytest.mark.parametrize('resident', [False, True])
def test_without_augmentation_there_is_one_view(resident):
    loader = loader_of(create_train_transform(no_aug=True, **PIXELS), resident)
    assert views_per_image(loader) == 1
    check_one_to_one(shown(loader, 2), 1)


def test_views_that_cannot_be_numbered():
    for loader in (loader_of(PADDED, resident=False), loader_of(ERASED, resident=False)):
        assert views_per_image(loader) is None
        with pytest.raises(UserError, match='stored_views'):
            epoch_views(loader)
    with pytest.raises(UserError, match='at least 1'):
        loader_of(PADDED, resident=True, stored_views=0)


def test_several_loaders_share_one_copy():
    images = ResidentImages(DATA, PADDED)
    first, second = (create_train_loader(DATA, PADDED, batch_size=4, seed=seed, images=images) for seed in (0, 1))
    assert first.images is second.images is images
    alone = loader_of(PADDED, resident=True, seed=1)
    assert shown(second, 2) == shown(alone, 2) != shown(first, 2)
    with pytest.raises(UserError, match='12 resident images, and 6'):
        create_train_loader(DATA.subset(range(6)), PADDED, batch_size=4, seed=0, images=images)
