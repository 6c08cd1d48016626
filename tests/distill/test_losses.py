"""Distillation losses: golden figures, identities, precision."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import balanced_kd_loss, create_loss, create_method, kd_loss, list_losses, list_methods
from timm_ltkd.distill.method import Output
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

GOLDEN = json.loads((Path(__file__).parent.parent / 'golden' / 'bkd_losses.json').read_text())


def logits(batch=8, classes=10, scale=3., seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, classes, generator=generator, dtype=dtype) * scale for _ in range(2))


def relative(value, reference):
    return float((value.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize('case', GOLDEN, ids=lambda case: f'{case["classes"]}-classes')
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize('name', ['kd', 'bkd'])
def test_golden(case, dtype, tolerance, name):
    student = torch.tensor(case['student'], dtype=dtype, requires_grad=True)
    teacher, target = torch.tensor(case['teacher'], dtype=dtype), torch.tensor(case['target'])
    options = dict(temperature=case['temperature'], alpha=case['alpha'])
    if name == 'bkd':
        options['beta'] = case['beta']
    method = create_method(name, prior=ClassPrior(case['counts']), **options)
    terms = method(Output(student), Output(teacher), target)
    loss = F.cross_entropy(student, target) + sum(terms.values())
    loss.backward()
    assert relative(loss.detach(), torch.tensor(case[f'{name}_loss'], dtype=torch.float64)) < tolerance
    assert relative(student.grad, torch.tensor(case[f'{name}_grad_student'], dtype=torch.float64)) < tolerance


@pytest.mark.parametrize('case', GOLDEN, ids=lambda case: f'{case["classes"]}-classes')
def test_golden_class_weights(case):
    weights = ClassPrior(case['counts']).effective_number_weights(case['beta'])
    assert relative(weights, torch.tensor(case['class_weights'], dtype=torch.float64)) < 1e-12


def test_bkd_as_the_paper_writes_it():
    student, teacher = logits()
    weights = ClassPrior([500, 300, 200, 100, 50, 20, 10, 5, 2, 1]).effective_number_weights()
    for temperature in (1., 2., 4.):
        q = F.softmax(teacher / temperature, dim=1) * weights
        q = q / q.sum(dim=1, keepdim=True)
        p = F.softmax(student / temperature, dim=1)
        expected = temperature ** 2 * (q * (q.log() - p.log())).sum(dim=1).mean()
        assert torch.allclose(balanced_kd_loss(student, teacher, weights, temperature), expected, rtol=1e-12)


@pytest.mark.parametrize('scale', [1., 7.])
def test_equal_counts_make_bkd_kd(scale):
    student, teacher = logits()
    expected = kd_loss(student, teacher, 2.)
    assert torch.allclose(balanced_kd_loss(student, teacher, torch.full((10,), scale), 2.), expected, rtol=1e-12)
    method = create_method('bkd', prior=ClassPrior([37] * 10), temperature=2.)
    assert torch.allclose(method(Output(student), Output(teacher), None)['bkd_loss'], expected, rtol=1e-12)


def test_kd_is_zero_for_equal_logits_and_has_no_teacher_gradient():
    student, teacher = logits()
    assert kd_loss(teacher, teacher).abs() < 1e-12
    student.requires_grad_()
    teacher.requires_grad_()
    balanced_kd_loss(student, teacher, torch.arange(1., 11.)).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.mark.parametrize('loss', [
    lambda s, t: kd_loss(s, t, 4.),
    lambda s, t: balanced_kd_loss(s, t, torch.arange(1., 11., dtype=torch.float64), 2.),
])
def test_gradcheck(loss):
    student, teacher = logits(batch=3)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())


@pytest.mark.parametrize('classes', [10, 100, 1000, 8142])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_logits_give_a_float32_loss_with_every_class(classes, dtype):
    student, teacher = (x.to(dtype) for x in logits(classes=classes, dtype=torch.float32))
    counts = torch.logspace(6, 0, classes).round()
    prior = ClassPrior(counts)
    student.requires_grad_()
    target = torch.full((8,), classes - 1)
    terms = create_method('bkd', prior=prior)(Output(student), Output(teacher), target)
    loss = create_loss('balanced_softmax', prior=prior)(student, target) + terms['bkd_loss']
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    exact = balanced_kd_loss(student.detach().double(), teacher.double(), prior.effective_number_weights())
    assert abs(float(terms['bkd_loss']) / float(exact) - 1) < 1e-5
    loss.backward()
    assert torch.isfinite(student.grad).all() and (student.grad[:, -1] != 0).all()


def test_autocast_keeps_the_loss_in_float32():
    student, teacher = logits(dtype=torch.float32)
    weights = ClassPrior(list(range(1, 11))).effective_number_weights()
    plain = balanced_kd_loss(student, teacher, weights)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(balanced_kd_loss(student, teacher, weights), plain)
        assert torch.equal(kd_loss(student, teacher), kd_loss(student.clone(), teacher))


@pytest.mark.parametrize('extreme', [1e4, -1e4])
def test_extreme_logits_stay_finite(extreme):
    student, teacher = logits(dtype=torch.float32)
    student[:, 0], teacher[:, -1] = extreme, extreme
    student.requires_grad_()
    loss = balanced_kd_loss(student, teacher, ClassPrior([10 ** 6] * 9 + [1]).effective_number_weights())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_bkd_defers_its_weights():
    student, teacher = (Output(x) for x in logits())
    prior = ClassPrior([500, 300, 200, 100, 50, 20, 10, 5, 2, 1])
    method = create_method('bkd', prior=prior, deferred_epochs=160)
    plain, balanced = kd_loss(student.logits, teacher.logits, 2.), create_method('bkd', prior=prior)
    for epoch, expected in ((0, plain), (159, plain), (160, balanced(student, teacher, None)['bkd_loss'])):
        method.set_epoch(epoch)
        assert torch.equal(method(student, teacher, None)['bkd_loss'], expected)


def test_hard_label_losses():
    student, _ = logits()
    target, prior = torch.arange(8), ClassPrior([500, 300, 200, 100, 50, 20, 10, 5, 2, 1])
    assert torch.allclose(create_loss('ce')(student, target), F.cross_entropy(student, target), rtol=1e-14)
    smooth = create_loss('ce', smoothing=0.1)(student, target)
    assert torch.equal(smooth, F.cross_entropy(student, target, label_smoothing=0.1))
    shifted = F.cross_entropy(student + (prior.counts / prior.num_samples).log(), target)
    assert torch.allclose(create_loss('balanced_softmax', prior=prior)(student, target), shifted, rtol=1e-12)
    equal = create_loss('balanced_softmax', prior=ClassPrior([9] * 10))(student, target)
    assert torch.allclose(equal, F.cross_entropy(student, target), rtol=1e-12)


@pytest.mark.parametrize('call, message', [
    (lambda: create_method('bkdd'), "did you mean 'bkd'"),
    (lambda: create_method('kd', temprature=2.), "did you mean 'temperature'"),
    (lambda: create_method('bkd'), 'pass prior='),
    (lambda: create_method('kd', temperature=0.), 'above 0'),
    (lambda: create_method('kd', alpha='much'), 'must be a number'),
    (lambda: create_method('kd', alpha=10**400), 'alpha cannot be larger than 1e[+]30'),
    (lambda: create_method('kd', temperature=1e-40), 'temperature must be at least 1e-06'),
    (lambda: create_method('dkd', temperature=1e200), 'cannot be larger'),
    (lambda: create_method('dist', temperature=1e20), 'temperature must be at most 1e[+]06'),
    (lambda: create_method('feature', student_features=4, teacher_features=3, seed=1.5), 'seed must be a whole'),
    (lambda: create_method('feature', student_features=4, teacher_features=3, seed=10**20), 'seed must be at most 2'),
    (lambda: create_method('bkd', prior=ClassPrior([1, 2]), beta=1.), r'beta must be in \[0, 1\)'),
    (lambda: create_loss('cee'), "did you mean 'ce'"),
    (lambda: create_loss('ce', smooting=.1), "did you mean 'smoothing'"),
])
def test_bad_options_say_what_to_do(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert '\n' not in str(error.value)


def test_options_may_be_numbers_of_numpy():
    assert create_method('kd', temperature=np.int64(2), alpha=np.float32(.5)).temperature == 2.


def test_registers():
    assert {'kd', 'bkd'} <= set(list_methods()) and {'ce', 'balanced_softmax'} <= set(list_losses())
