"""Boxes that are erased of a whole batch: where timm's would be, and filled alike."""
import random

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.random_erasing import RandomErasing

from timm_ltkd.data.resident.erasing import Erasing
from timm_ltkd.data.resident.random_numbers import keys, normals, uniforms

SIZE = (12, 20)


def erasing(**options) -> Erasing:
    return Erasing.of(RandomErasing(**{'probability': 1., 'device': 'cpu', **options}))


def draws_of(step: Erasing, count: int, seed: int = 0) -> torch.Tensor:
    key = keys(seed, torch.arange(count))
    return step.draw(uniforms(key, step.uniforms), key, SIZE)


def timms_masks(count: int, **options) -> torch.Tensor:
    """Which pixels timm erases, one image at a time, bool `[count, H, W]`."""
    state, step = random.getstate(), RandomErasing(**{'probability': 1., 'device': 'cpu', **options})
    random.seed(0)
    masks = torch.stack([step(torch.ones(1, *SIZE))[0] == 0 for _ in range(count)])
    random.setstate(state)
    return masks


def our_masks(count: int, **options) -> torch.Tensor:
    step = erasing(**options)
    return step.erase(torch.ones(count, *SIZE, 1), draws_of(step, count))[..., 0] == 0


@pytest.mark.parametrize('mode', ['const', 'rand', 'pixel'])
def test_exactly_the_boxes_are_filled(mode):
    step, generator = erasing(mode=mode, max_count=3), torch.Generator().manual_seed(0)
    pixels, draws = torch.rand(50, *SIZE, 3, generator=generator), draws_of(step, 50)
    erased = step.erase(pixels.clone(), draws)
    assert torch.equal(erased, step._erased(pixels, draws)), 'as on another device'
    for image, before, row in zip(erased, pixels, draws, strict=True):
        expected = before.clone()
        colours, noise = normals(row[-1], 9), normals(row[-1], expected.numel()).view(expected.shape)
        for k in range(3):
            top, left, height, width = row[4 * k:4 * k + 4].tolist()
            box = slice(top, top + height), slice(left, left + width)
            expected[box] = {'const': torch.zeros(3), 'rand': colours[3 * k:3 * k + 3], 'pixel': noise[box]}[mode]
        assert torch.equal(image, expected)
    boxes = draws[:, :12].reshape(-1, 4)
    assert (boxes[:, 0] + boxes[:, 2] <= SIZE[0]).all() and (boxes[:, 1] + boxes[:, 3] <= SIZE[1]).all()
    assert set((boxes[:, 2] > 0).view(-1, 3).sum(1).tolist()) == {1, 2, 3}


def test_one_box_has_the_distribution_of_timms():
    count = 6000
    timms, ours = timms_masks(count), our_masks(count)

    def figures(masks):
        rows, columns = masks.any(2), masks.any(1)
        return rows.sum(1), columns.sum(1), rows.long().argmax(1), columns.long().argmax(1)
    for theirs, mine in zip(figures(timms), figures(ours), strict=True):
        table = np.stack([np.bincount(values, minlength=21) for values in (theirs, mine)])
        assert stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 0.001
    pairs = [np.bincount(f[0] * 21 + f[1], minlength=300) for f in map(figures, (timms, ours))]
    table = np.stack(pairs)
    assert stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 0.001


@pytest.mark.parametrize('options', [
    dict(probability=0.3),
    dict(max_count=4),
    dict(min_area=0.6, max_area=1.),  # often no box is found
    dict(min_area=0.05, max_area=0.5, min_aspect=0.1, max_aspect=2.),
])
def test_as_many_pixels_are_erased_as_by_timm(options):
    count = 4000
    areas = [masks.sum((1, 2)) for masks in (timms_masks(count, **options), our_masks(count, **options))]
    none = [int((area == 0).sum()) for area in areas]
    assert stats.chi2_contingency([[n + 1, count - n + 1] for n in none]).pvalue > 0.001
    assert stats.ks_2samp(*(area[area > 0].numpy() for area in areas)).pvalue > 0.001
    shares = [masks.float().mean(0) for masks in (timms_masks(count, **options), our_masks(count, **options))]
    assert (shares[0] - shares[1]).abs().max() < 5 * (0.5 / count) ** 0.5


def test_what_fills_them_is_normal_and_independent():
    noise = normals(keys(3, torch.arange(200)), 500).double()
    assert noise.shape == (200, 500) and stats.kstest(noise.flatten()[:20000], 'norm').pvalue > 0.001
    assert abs(noise.mean()) < 5 / noise.numel() ** 0.5 and abs(noise.var() - 1) < 5 * (2 / noise.numel()) ** 0.5
    columns = torch.corrcoef(noise.T)  # of places: two come of the same 64 bits
    assert columns.fill_diagonal_(0).abs().max() < 5.5 / 200 ** 0.5
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 5.5 / 500 ** 0.5


def test_uniform_numbers_depend_on_all_of_their_key():
    key = keys(5, torch.arange(400).repeat(3), torch.arange(3).repeat_interleave(400))
    numbers = uniforms(key, 50)
    assert len(key.unique()) == 1200 and numbers.dtype == torch.float64
    assert stats.kstest(numbers.flatten().numpy(), 'uniform').pvalue > 0.001 and 0 <= numbers.min() < numbers.max() < 1
    assert not torch.equal(keys(6, torch.arange(4)), keys(5, torch.arange(4)))
    assert not torch.equal(keys(5, torch.tensor([1]), torch.tensor([2])), keys(5, torch.tensor([2]), torch.tensor([1])))
    flips = torch.corrcoef(numbers.T).fill_diagonal_(0)
    assert flips.abs().max() < 5.5 / 1200 ** 0.5
