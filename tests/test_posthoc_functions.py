"""The post-hoc fixes as pure functions."""
import pytest
import torch
import torch.nn.functional as F

import timm_ltkd
from timm_ltkd.posthoc import TAU_SWEEP, adjust_logits, tau_normalise
from timm_ltkd.prior import ClassPrior


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_tau_normalised_lengths():
    weight = normal(7, 5) * torch.logspace(-3, 3, 7, dtype=torch.float64)[:, None]
    assert torch.equal(tau_normalise(weight, 0.), weight)
    torch.testing.assert_close(tau_normalise(weight, 1.), F.normalize(weight, dim=1))
    for tau in (0.3, 0.5, 2.):
        fixed = tau_normalise(weight, tau)
        torch.testing.assert_close(fixed.norm(dim=1), weight.norm(dim=1) ** (1 - tau))
        torch.testing.assert_close(F.cosine_similarity(fixed, weight), torch.ones(7, dtype=torch.float64))


def test_a_class_of_weight_zero_stays_so():
    weight = torch.stack([torch.zeros(4), torch.ones(4)])
    assert torch.equal(tau_normalise(weight, 1.), torch.stack([torch.zeros(4), torch.full((4,), 0.5)]))


def test_the_dtype_is_kept():
    assert tau_normalise(normal(3, 4).bfloat16(), 0.5).dtype == torch.bfloat16


def test_adjusting_is_bayes_rule():
    """The posterior under the training prior becomes that under an even one, for tau = 1."""
    prior = ClassPrior([900, 90, 10])
    likelihood = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    posterior = likelihood * prior.log_prior().exp()
    posterior /= posterior.sum(1, keepdim=True)
    found = adjust_logits(posterior.log(), prior.log_prior(), 1.).softmax(1)
    torch.testing.assert_close(found, likelihood / likelihood.sum(1, keepdim=True))
    logits = normal(5, 3)
    assert torch.equal(adjust_logits(logits, prior.log_prior(), 0.), logits)
    torch.testing.assert_close(
        adjust_logits(logits, prior.log_prior(), 0.5),
        logits - 0.5 * torch.tensor([0.9, 0.09, 0.01], dtype=torch.float64).log())


def test_half_precision_logits_keep_a_rare_class():
    prior = ClassPrior([10 ** 6, 1, 1])
    logits = torch.full((1, 3), 100., dtype=torch.bfloat16)
    fixed = adjust_logits(logits, prior.log_prior(), 0.01)
    assert fixed.dtype == torch.float32
    assert float(fixed[0, 1] - fixed[0, 0]) == pytest.approx(0.01 * 13.8155, rel=1e-3)


def test_the_sweep():
    assert TAU_SWEEP[0] == 0 and TAU_SWEEP[-1] == 2 and len(TAU_SWEEP) == 21 and 0.3 in TAU_SWEEP


def test_they_come_with_the_package():
    assert timm_ltkd.posthoc.adjust_logits is adjust_logits
