"""Hard-label losses: golden figures, identities, both kinds of labels, precision, deferred weights."""
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import (
    balanced_softmax_loss,
    create_loss,
    cross_entropy_loss,
    describe_losses,
    focal_loss,
    ldam_loss,
    ldam_margins,
    list_losses,
    logit_adjusted_loss,
    register_method,
    weighted_cross_entropy_loss,
)
from timm_ltkd.distill.losses import HardLabelLoss, loss_class, register_loss
from timm_ltkd.distill.losses import loss as loss_module
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

GOLDEN = json.loads((Path(__file__).parent.parent / 'golden' / 'bkd_losses.json').read_text())
COUNTS = [500, 300, 200, 100, 50, 20, 10, 5, 2, 1]
PRIOR, EQUAL = ClassPrior(COUNTS), ClassPrior([37] * 10)
LOSSES = ['balanced_softmax', 'ce', 'focal', 'ldam', 'logit_adjust', 'weighted_ce']
SOFT = [name for name in LOSSES if name != 'ldam']
WEIGHTING = ['weighted_ce', 'focal', 'ldam']


def batch(size=8, classes=10, scale=3., dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size, classes, generator=generator, dtype=dtype) * scale
    return logits, torch.randint(classes, (size,), generator=generator)


def mixed(target, classes=10, share=0.3):
    """Labels as mixup makes them."""
    hot = F.one_hot(target, classes).double()
    return (1 - share) * hot + share * hot.flip(0)


def close(value, reference, rtol=1e-12):
    return torch.allclose(value, reference, rtol=rtol, atol=0)


# ---- what they are ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('case', GOLDEN, ids=lambda case: f'{case["classes"]}-classes')
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_golden_ldam(case, dtype, tolerance):
    prior, target = ClassPrior(case['counts']), torch.tensor(case['target'])
    cosines, golden = torch.tensor(case['student'], dtype=dtype), case['ldam_weighted_loss']
    weights = prior.effective_number_weights(case['beta'])
    assert float(ldam_loss(cosines, target, ldam_margins(prior), 30., weights)) == pytest.approx(golden, rel=tolerance)
    module = create_loss('ldam', prior=prior, beta=case['beta'])
    assert float(module(30 * cosines, target)) == pytest.approx(golden, rel=tolerance)


def test_formulas_one_image_at_a_time():
    logits, target = batch()
    n, w = PRIOR.counts, PRIOR.effective_number_weights()
    margins = 0.5 * (n.min() / n) ** 0.25
    focal = ldam = weighted = adjusted = 0.
    for z, y in zip(logits, target.tolist(), strict=True):
        p = z.exp() / z.exp().sum()
        weighted += w[y] * -p[y].log()
        focal += w[y] * (1 - p[y]) ** 1.5 * -p[y].log()
        own, others = (5 * (z[y] - margins[y])).exp(), sum((5 * z[c]).exp() for c in range(10) if c != y)
        ldam += -(own / (own + others)).log()
        p = n ** 0.7 * z.exp()
        adjusted += -(p[y] / p.sum()).log()
    assert close(weighted_cross_entropy_loss(logits, target, w), weighted / w[target].sum())
    assert close(focal_loss(logits, target, 1.5, w), focal / w[target].sum())
    assert close(ldam_loss(logits, target, ldam_margins(PRIOR), 5.), ldam / 8, rtol=1e-7)  # margins are float32
    assert close(logit_adjusted_loss(logits, target, PRIOR.log_prior(), 0.7), adjusted / 8)


def test_ldam_margins():
    margins = ldam_margins(ClassPrior([10000, 16, 1]), max_margin=0.8)
    assert margins.tolist() == pytest.approx([0.08, 0.4, 0.8])


# ---- identities ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, prior, options', [
    ('balanced_softmax', EQUAL, {}),
    ('logit_adjust', PRIOR, dict(tau=0.)),
    ('logit_adjust', EQUAL, dict(tau=2.)),
    ('weighted_ce', EQUAL, {}),
    ('weighted_ce', EQUAL, dict(weights='inverse')),
    ('weighted_ce', PRIOR, dict(beta=0.)),
    ('focal', PRIOR, dict(gamma=0.)),
    ('focal', EQUAL, dict(gamma=0., weights='effective')),
    ('ldam', PRIOR, dict(max_margin=0.)),
    ('ldam', EQUAL, dict(max_margin=0., weights='inverse')),
])
def test_reduces_to_cross_entropy(name, prior, options):
    logits, target = batch()
    expected, loss = F.cross_entropy(logits, target), create_loss(name, prior=prior, **options)
    assert close(loss(logits, target), expected)
    if loss.accepts_soft_targets:
        assert close(loss(logits, mixed(target)), F.cross_entropy(logits, mixed(target)))
        smooth = create_loss(name, prior=prior, smoothing=0.1, **options)
        assert close(smooth(logits, target), F.cross_entropy(logits, target, label_smoothing=0.1))


def test_without_margin_ldam_is_scaled_cross_entropy():
    logits, target = batch(scale=0.5)
    for scale in (1., 30.):
        assert close(ldam_loss(logits, target, torch.zeros(10), scale), F.cross_entropy(scale * logits, target))


def test_logit_adjustment_of_1_is_balanced_softmax():
    logits, target = batch()
    adjusted, balanced = create_loss('logit_adjust', prior=PRIOR, tau=1.), create_loss('balanced_softmax', prior=PRIOR)
    for labels in (target, mixed(target)):
        assert torch.equal(adjusted(logits, labels), balanced(logits, labels))
    assert close(balanced_softmax_loss(logits, target, PRIOR.counts.log()), balanced(logits, target))


@pytest.mark.parametrize('kind', ['effective', 'inverse'])
def test_weights_are_those_of_torch(kind):
    logits, target = batch()
    weights = PRIOR.effective_number_weights(0.99) if kind == 'effective' else PRIOR.inverse_frequency_weights()
    options = dict(beta=0.99) if kind == 'effective' else {}
    expected = F.cross_entropy(logits, target, weight=weights)
    assert close(create_loss('weighted_ce', prior=PRIOR, weights=kind, **options)(logits, target), expected)
    focal = create_loss('focal', prior=PRIOR, gamma=0., weights=kind, **options)
    assert close(focal(logits, target), expected)
    ldam = create_loss('ldam', prior=PRIOR, max_margin=0., weights=kind, **options)
    assert close(ldam(logits, target), expected)
    assert close(weighted_cross_entropy_loss(logits, target, 7 * weights), expected), 'their scale does not matter'


# ---- labels ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', SOFT)
def test_shares_of_one_class_are_that_class(name):
    logits, target = batch()
    options = dict(weights='effective') if name in WEIGHTING else {}
    loss = create_loss(name, prior=PRIOR, **options)
    assert close(loss(logits, F.one_hot(target, 10).double()), loss(logits, target))
    assert close(loss(logits, F.one_hot(target, 10).float()), loss(logits, target)), 'labels of another dtype'


@pytest.mark.parametrize('name', SOFT)
def test_a_mixed_image_has_the_mixed_losses_of_its_labels(name):
    logits, target = batch()
    loss = create_loss(name, prior=PRIOR, **(dict(weights='effective') if name in WEIGHTING else {}))
    first, second = loss(logits, target), loss(logits, target.flip(0))  # with the same sum of class weights
    assert close(loss(logits, mixed(target)), 0.7 * first + 0.3 * second)


@pytest.mark.parametrize('name', SOFT)
def test_smoothing_is_a_kind_of_mixing(name):
    logits, target = batch()
    smooth, plain = create_loss(name, prior=PRIOR, smoothing=0.2), create_loss(name, prior=PRIOR)
    for labels in (target, mixed(target)):
        shares = labels if labels.is_floating_point() else F.one_hot(labels, 10).double()
        assert close(smooth(logits, labels), plain(logits, 0.8 * shares + 0.02))


def test_ldam_refuses_what_has_no_one_label():
    loss = create_loss('ldam', prior=PRIOR, smoothing=0.)  # as the scripts pass it
    assert not loss.accepts_soft_targets and all(create_loss(name, prior=PRIOR).accepts_soft_targets for name in SOFT)
    logits, target = batch()
    with pytest.raises(UserError, match='leave out mixup, cutmix'):
        loss(logits, mixed(target))
    with pytest.raises(UserError, match='no label smoothing'):
        create_loss('ldam', prior=PRIOR, smoothing=0.1)


# ---- gradients and precision -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, soft', [*((name, False) for name in LOSSES), *((name, True) for name in SOFT)])
def test_gradcheck(name, soft):
    logits, target = batch(4)
    loss = create_loss(name, prior=PRIOR, **(dict(weights='effective') if name in WEIGHTING else {}))
    target = mixed(target) if soft else target
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize('classes', [10, 100, 1000, 8142])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', LOSSES)
def test_low_precision_logits_give_a_float32_loss_with_every_class(name, dtype, classes):
    logits, _ = batch(classes=classes, dtype=torch.float32)
    logits, target = logits.to(dtype), torch.arange(8) + classes - 8
    prior = ClassPrior(torch.logspace(6, 0, classes).round())
    loss = create_loss(name, prior=prior, **(dict(weights='inverse') if name in WEIGHTING else {}))
    value = loss(logits.requires_grad_(), target)
    assert value.dtype == torch.float32
    exact = loss(logits.detach().double(), target)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    value.backward()
    assert torch.isfinite(logits.grad).all() and (logits.grad[range(8), target] != 0).all()


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('extreme', [1e4, -1e4])
@pytest.mark.parametrize('right', [True, False])
def test_extreme_logits_stay_finite(name, extreme, right):
    logits, target = batch(dtype=torch.float32)
    target = torch.full_like(target, 9)
    logits[:, 9 if right else 0] = extreme
    for options in [dict(gamma=gamma) for gamma in (0., 0.5, 2.)] if name == 'focal' else [{}]:
        options |= dict(weights='effective') if name in WEIGHTING else {}
        loss = create_loss(name, prior=ClassPrior([10 ** 6] * 9 + [1]), **options)
        for labels in (target, mixed(target).float()) if loss.accepts_soft_targets else (target,):
            leaf = logits.clone().requires_grad_()
            value = loss(leaf, labels)
            value.backward()
            assert torch.isfinite(value) and torch.isfinite(leaf.grad).all()


def test_autocast_keeps_the_loss_in_float32():
    logits, target = batch(dtype=torch.float32)
    for name in LOSSES:
        loss = create_loss(name, prior=PRIOR)
        with torch.autocast('cpu', torch.bfloat16):
            assert torch.equal(loss(logits, target), loss(logits.clone(), target))
            inside = loss(logits, target)
        assert torch.equal(inside, loss(logits, target))


# ---- deferred re-weighting -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', WEIGHTING)
def test_weights_come_in_at_the_very_epoch(name):
    logits, target = batch()
    off = create_loss(name, prior=PRIOR, weights='none') if name != 'weighted_ce' else create_loss('ce')
    on = create_loss(name, prior=PRIOR, weights='effective')
    loss = create_loss(name, prior=PRIOR, deferred_epochs=160)
    assert not close(off(logits, target), on(logits, target), rtol=1e-3)
    assert close(loss(logits, target), off(logits, target)), 'before any epoch'
    for epoch, expected in ((0, off), (159, off), (160, on), (199, on), (159, off)):
        loss.set_epoch(epoch)
        assert close(loss(logits, target), expected(logits, target)), epoch
    assert torch.equal(create_loss(name, prior=PRIOR, deferred_epochs=0)(logits, target), on(logits, target))


def test_no_loss_has_a_state_to_save():
    assert all(not create_loss(name, prior=PRIOR).state_dict() for name in LOSSES)


# ---- the register ----------------------------------------------------------------------------------------------------

def test_each_has_a_line_with_its_paper():
    assert list(describe_losses()) == list_losses() == LOSSES
    assert all('arXiv' in line and line.endswith('.') and len(line) <= 120 for line in describe_losses().values())


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="'ce' is registered already"):
        register_loss('ce')(HardLabelLoss)


def test_a_name_has_no_dot():
    with pytest.raises(UserError, match="a distillation method cannot be called 'my.own': choose a name without a dot"):
        register_method('my.own')(HardLabelLoss)


def test_a_cell_of_a_notebook_may_run_again(monkeypatch):
    monkeypatch.setattr(loss_module, '_LOSSES', dict(loss_module._LOSSES))
    cells = []
    for _ in range(2):
        @register_loss('mine')
        class Mine(HardLabelLoss):
            pass
        cells.append(Mine)
    assert loss_class('mine') is cells[1] and cells[0] is not cells[1]
    with pytest.raises(UserError, match="'mine' is registered already, by .*test_hard_label_losses: choose another"):
        register_loss('mine')(HardLabelLoss)


@pytest.mark.parametrize('name, options, message', [
    ('focall', {}, "did you mean 'focal'"),
    ('focal', dict(gama=1.), "did you mean 'gamma'"),
    ('focal', dict(gamma=-1.), 'gamma must be at least 0'),
    ('ldam', dict(scale=0.), 'scale must be above 0'),
    ('ldam', dict(max_margin=-1.), 'max_margin must be at least 0'),
    ('ldam', dict(weights='efective'), "weights cannot be 'efective'; did you mean 'effective'"),
    ('ldam', dict(weights='none', deferred_epochs=3), 'there are none'),
    ('focal', dict(weights='inverse', beta=0.9), 'beta belongs to weights=effective'),
    ('focal', dict(deferred_epochs='late'), 'deferred_epochs must be a number'),
    ('weighted_ce', dict(deferred_epochs=-1), 'deferred_epochs must be at least 0'),
    ('weighted_ce', dict(weights='none'), "weights cannot be 'none'"),
    ('weighted_ce', dict(beta=1.), r'beta must be in \[0, 1\)'),
    ('logit_adjust', dict(tau=-1.), 'tau must be at least 0'),
    ('balanced_softmax', dict(smoothing=2.), 'smoothing must be at most 1'),
])
def test_bad_options_say_what_to_do(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        create_loss(name, prior=PRIOR, **options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', [name for name in LOSSES if name != 'ce'])
def test_a_prior_is_asked_for(name):
    with pytest.raises(UserError, match='pass prior='):
        create_loss(name)


def test_cross_entropy_is_torchs():
    logits, target = batch()
    for smoothing in (0., 0.1):
        assert torch.equal(
            cross_entropy_loss(logits, target, smoothing), F.cross_entropy(logits, target, label_smoothing=smoothing))


@pytest.mark.parametrize('name', ['ce', 'balanced_softmax', 'weighted_ce'])
@pytest.mark.parametrize('smoothing', [0., 0.1])
def test_no_label_is_left_out_in_silence(name, smoothing):
    logits, target = batch()
    target[0] = -100
    with pytest.raises((RuntimeError, IndexError)):
        create_loss(name, prior=ClassPrior(range(1, logits.shape[1] + 1)), smoothing=smoothing)(logits, target)
