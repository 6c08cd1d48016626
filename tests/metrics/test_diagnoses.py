"""Group confusion and calibration bins against naive loops and the figures that they underlie."""
import numpy as np
import pytest
import torch

from timm_ltkd.errors import UserError
from timm_ltkd.metrics import calibration, confusion, group_confusion, long_tail_report, mistakes, per_sample
from timm_ltkd.prior import ClassPrior

COUNTS = [500, 300, 101, 100, 60, 20, 19, 5, 1]
GROUP_OF = ['many'] * 3 + ['medium'] * 3 + ['few'] * 3


def predictions(size=400, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randint(9, size=size), rng.randint(9, size=size)


def test_group_confusion_sums_the_confusion_matrix():
    prediction, target = predictions()
    whole = confusion(prediction, target, 9)
    found = group_confusion(prediction, target, ClassPrior(COUNTS))
    for true in ('many', 'medium', 'few'):
        for taken in ('many', 'medium', 'few'):
            assert found[true][taken] == sum(
                whole[i, j] for i in range(9) for j in range(9) if (GROUP_OF[i], GROUP_OF[j]) == (true, taken))
    assert sum(map(sum, (row.values() for row in found.values()))) == 400
    assert all(type(value) is int for row in found.values() for value in row.values())


def test_groups_that_are_absent():
    assert group_confusion([0, 1], [0, 1], ClassPrior([50, 50])) == {'medium': {'medium': 2}}
    assert group_confusion([1, 1], [0, 0], ClassPrior([500, 5])) == {'many': {'many': 0, 'few': 2}}  # none of few


def test_group_boundaries_are_the_priors():
    prior = ClassPrior([8, 4, 2], many=6, few=3)
    assert group_confusion(torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2]), prior) == {
        'many': {'many': 1, 'medium': 0, 'few': 0}, 'medium': {'many': 1, 'medium': 0, 'few': 0},
        'few': {'many': 0, 'medium': 0, 'few': 1}}


def test_group_confusion_refuses():
    with pytest.raises(UserError, match='outside the 2 classes'):
        group_confusion([2], [0], ClassPrior([5, 5]))
    with pytest.raises(UserError, match='2 targets'):
        group_confusion([0], [0, 1], ClassPrior([5, 5]))


def test_mistakes_are_the_largest_entries_of_the_confusion_matrix():
    prediction, target = predictions(200)
    whole = confusion(prediction, target, 9)
    found = mistakes(torch.from_numpy(prediction), target, 9, most=100)
    assert {(pair['class'], pair['taken_for']): pair['images'] for pair in found} == {
        (i, j): whole[i, j] for i in range(9) for j in range(9) if i != j and whole[i, j]}
    assert all(pair['of'] == whole[pair['class']].sum() for pair in found)
    keys = [(-pair['images'], pair['of']) for pair in found]
    assert keys == sorted(keys) and mistakes(prediction, target, 9) == found[:20]
    assert all(type(value) is int for pair in found for value in pair.values())
    assert mistakes([1, 1, 0], [0, 0, 0], 2) == [{'class': 0, 'taken_for': 1, 'images': 2, 'of': 3}]
    assert mistakes([0, 1], [0, 1], 2) == []
    with pytest.raises(UserError, match='outside the 2 classes'):
        mistakes([2], [0], 2)


def test_calibration_by_hand():
    bins = calibration([1 / 15, 0.07, 0.5, 1., 1.], [True, False, True, True, False])
    assert bins['images'] == [1, 1] + [0] * 5 + [1] + [0] * 6 + [2]  # an upper edge belongs to its bin
    assert bins['confidence'][0] == pytest.approx(100 / 15) and bins['accuracy'][0] == 100.
    assert bins['confidence'][7] == 50. and bins['accuracy'][14] == 50. and bins['accuracy'][1] == 0.
    assert bins['confidence'][2] is None and bins['accuracy'][2] is None


def test_the_calibration_error_is_that_of_the_bins():
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(9, (500,), generator=generator)
    logits = 2 * torch.randn(500, 9, generator=generator)
    logits[torch.arange(500), target] += 1.
    columns = per_sample(logits, target)
    bins = calibration(columns['confidence'], columns['prediction'] == target)
    wanted = sum(
        images / 500 * abs(confidence - accuracy) for images, confidence, accuracy in zip(*bins.values(), strict=True)
        if images)
    assert long_tail_report(logits, target, ClassPrior(COUNTS))['ece'] == pytest.approx(wanted, rel=1e-12)
    assert sum(bins['images']) == 500


def test_calibration_refuses():
    with pytest.raises(UserError, match='NaN'):
        calibration([float('nan')], [True])
    with pytest.raises(UserError, match='1 targets'):
        calibration([0.5, 0.5], [True])
