"""What holds of every prior; and that timm, which has some of the formulas, agrees."""
import numpy as np
import pytest
import timm.loss
import torch
from hypothesis import given
from hypothesis import strategies as st

from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

COUNTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=40)
BETA = st.one_of(st.just(0.), st.floats(0.1, 0.999999))


@given(counts=COUNTS, beta=BETA, power=st.floats(0, 2))
def test_weights_have_mean_one_and_favour_rare_classes(counts, beta, power):
    prior = ClassPrior(counts)
    for weights in (prior.effective_number_weights(beta), prior.inverse_frequency_weights(power)):
        assert weights.dtype == torch.float64 and weights.shape == (len(counts),)
        assert float(weights.mean()) == pytest.approx(1, rel=1e-9) and (weights > 0).all()
        by_size = weights.numpy()[np.argsort(counts, kind='stable')]
        assert (np.diff(by_size) <= 1e-9).all()


@pytest.mark.skipif(not hasattr(timm.loss, 'compute_class_weights'), reason='a timm before 1.0.31')
@given(counts=COUNTS, beta=st.floats(0.1, 0.9999))
def test_timm_agrees(counts, beta):
    prior = ClassPrior(counts)
    for method, ours in (
            ('effective_num', prior.effective_number_weights(beta)),
            ('inv_freq', prior.inverse_frequency_weights()),
    ):
        _, theirs = timm.loss.compute_class_weights(counts, sum(counts), method=method, beta=beta)
        assert torch.allclose(ours.float(), theirs, rtol=1e-5)


@given(counts=COUNTS, beta=BETA, data=st.data())
def test_everything_follows_a_permutation_of_classes(counts, beta, data):
    order = data.draw(st.permutations(range(len(counts))))
    prior, permuted = ClassPrior(counts), ClassPrior([counts[i] for i in order])
    assert permuted.imbalance_factor == prior.imbalance_factor and permuted.num_samples == prior.num_samples
    for name, argument in (('effective_number_weights', beta), ('inverse_frequency_weights', 0.7)):
        assert getattr(permuted, name)(argument).tolist() == pytest.approx(
            getattr(prior, name)(argument)[order].tolist(), rel=1e-12)
    assert permuted.log_prior().tolist() == pytest.approx(prior.log_prior()[order].tolist(), rel=1e-12)
    for name, mask in prior.shot_groups().items():
        assert torch.equal(permuted.shot_groups()[name], mask[order])


@given(counts=COUNTS, few=st.integers(0, 300), more=st.integers(0, 300))
def test_each_class_is_in_one_group_and_the_prior_is_a_distribution(counts, few, more):
    prior = ClassPrior(counts, many=few + more, few=few)
    groups = torch.stack(list(prior.shot_groups().values())).int()
    assert (groups.sum(0) == 1).all()
    assert float(prior.log_prior().exp().sum()) == pytest.approx(1, abs=1e-12)
    if more:
        with pytest.raises(UserError, match='0 <= few <= many'):
            ClassPrior(counts, many=few, few=few + more)


@given(counts=COUNTS, times=st.integers(2, 50))
def test_twice_the_images_of_each_class_are_the_same_prior(counts, times):
    prior, larger = ClassPrior(counts), ClassPrior([count * times for count in counts])
    assert larger.log_prior().tolist() == pytest.approx(prior.log_prior().tolist(), abs=1e-12)
    assert larger.inverse_frequency_weights().tolist() == pytest.approx(prior.inverse_frequency_weights().tolist())


@given(counts=COUNTS, wrong=st.sampled_from([0, -1, 0.5, float('nan'), float('inf')]), at=st.integers(0, 39))
def test_what_is_no_count_is_refused(counts, wrong, at):
    counts = [float(count) for count in counts]
    counts[at % len(counts)] = wrong
    with pytest.raises(UserError):
        ClassPrior(counts)
