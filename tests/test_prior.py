"""ClassPrior: formulas against other implementations, groups, bad counts."""
import pytest
import torch

from timm_ltkd.distill import create_loss, create_method
from timm_ltkd.errors import UserError
from timm_ltkd.metrics import long_tail_report
from timm_ltkd.prior import ClassPrior


def test_facts():
    prior = ClassPrior([500, 50, 5])
    assert (prior.num_classes, prior.num_samples, prior.imbalance_factor) == (3, 555, 100.)
    assert torch.allclose(prior.log_prior().exp(), torch.tensor([500, 50, 5], dtype=torch.float64) / 555)
    assert prior.log_prior().dtype == torch.float64


@pytest.mark.parametrize('beta', [0., 0.9, 0.999, 0.9999, 0.999999])
def test_effective_number_weights(beta):
    counts = torch.tensor([10 ** 6, 5000, 500, 20, 5, 1])
    weights = ClassPrior(counts).effective_number_weights(beta)
    expected = (1 - beta) / (1 - beta ** counts.double())
    assert torch.allclose(weights, expected / expected.mean(), rtol=1e-9)
    assert weights.mean().item() == pytest.approx(1.)


def test_weights_agree_with_timm():
    timm_loss = pytest.importorskip('timm.loss')
    if not hasattr(timm_loss, 'compute_class_weights'):
        pytest.skip('this timm has no compute_class_weights')
    counts = [500, 213, 40, 7, 1]
    for method, ours in (
            ('effective_num', ClassPrior(counts).effective_number_weights(0.999)),
            ('inv_freq', ClassPrior(counts).inverse_frequency_weights()),
    ):
        _, theirs = timm_loss.compute_class_weights(counts, sum(counts), method=method, beta=0.999)
        assert torch.allclose(ours.float(), theirs, rtol=1e-6)


def test_effective_numbers_tend_to_inverse_frequency():
    prior = ClassPrior([500, 50, 5, 1])
    assert torch.allclose(
        prior.effective_number_weights(1 - 1e-12), prior.inverse_frequency_weights(), rtol=1e-3)


def test_a_prior_has_boundaries_of_its_own():
    prior = ClassPrior([500, 101, 100, 20, 19, 1], many=101, few=2)
    assert [groups.tolist() for groups in prior.shot_groups().values()] == [
        [True] + [False] * 5, [False] + [True] * 4 + [False], [False] * 5 + [True]]
    assert prior.shot_groups(few=20)['few'].tolist() == [False] * 4 + [True] * 2


def test_shot_groups_put_the_boundaries_in_medium():
    groups = ClassPrior([500, 101, 100, 20, 19, 1]).shot_groups()
    assert groups['many'].tolist() == [True, True, False, False, False, False]
    assert groups['medium'].tolist() == [False, False, True, True, False, False]
    assert groups['few'].tolist() == [False, False, False, False, True, True]
    assert (sum(mask.int() for mask in groups.values()) == 1).all()


@pytest.mark.parametrize('counts, message', [
    ([], 'non-empty'), ([[1, 2]], 'non-empty'), ([1.5, 2], 'whole numbers'), ([-1, 2], 'whole numbers'),
    ([float('nan'), 1], 'whole numbers'), ([3, 0, 1], r"class 1 \('b'\) has no training image"),
    (None, 'a number a class: .*NoneType'), ([3, None], 'a number a class: .*NoneType'),
    ([3, 0, 1, 1], '4 class counts and 3 class names'),
])
def test_bad_counts(counts, message):
    with pytest.raises(UserError, match=message):
        ClassPrior(counts, class_names=['a', 'b', 'c'])


def test_bad_arguments():
    with pytest.raises(UserError, match='beta'):
        ClassPrior([1, 2]).effective_number_weights(1.)
    with pytest.raises(UserError, match='few <= many'):
        ClassPrior([1, 2]).shot_groups(many=5, few=6)
    with pytest.raises(UserError, match='few=6 .--few-shot. and many=5'):
        ClassPrior([1, 2], many=5, few=6)


def test_counts_alone_are_no_prior():
    for call in (
        lambda: create_method('bkd', prior=[3, 2]), lambda: create_loss('focal', prior=[3, 2]),
        lambda: long_tail_report([0, 1], [0, 1], [3, 2]),
    ):
        with pytest.raises(UserError, match=r'prior cannot be a list: give a ClassPrior\(counts\)'):
            call()


def test_the_default_device_changes_nothing():
    with torch.device('meta'):
        prior = ClassPrior([5, 2, 1])
        weights = prior.effective_number_weights()
    assert torch.equal(weights, ClassPrior([5, 2, 1]).effective_number_weights())
