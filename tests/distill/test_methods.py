"""Logit methods: golden figures, identities, naive float64 references, precision, options."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import (
    Output,
    balanced_kd_loss,
    class_thirds,
    create_loss,
    create_method,
    decoupled_kl,
    dist_loss,
    dive_loss,
    dkd_loss,
    feature_loss,
    grouped_kl,
    kd_loss,
    ltkd_loss,
    soft_label_weights,
    wsl_loss,
)
from timm_ltkd.distill.dist import relation_distance
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

GOLDEN = json.loads((Path(__file__).parent.parent / 'golden' / 'bkd_losses.json').read_text())
COUNTS = [500, 300, 200, 100, 50, 20, 10, 5, 2, 1]
GROUPS = class_thirds(torch.tensor(COUNTS))
LOGIT_METHODS = ['bkd', 'dist', 'dive', 'dkd', 'kd', 'ltkd', 'wsl']


def logits(batch=8, classes=10, scale=3., seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, classes, generator=generator, dtype=dtype) * scale for _ in range(2))


def target_of(batch=8, classes=10):
    return torch.arange(batch) * 7 % classes


def probabilities(row, temperature):
    exp = [math.exp(z / temperature) for z in row]
    return [e / sum(exp) for e in exp]


def kl(q, p):
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))


def pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    cov = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return cov / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def per_sample_kl(student, teacher, temperature):
    p, q = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return (q * (q.log() - p.log())).sum(dim=1)


# kd and bkd

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
    weights = ClassPrior(COUNTS).effective_number_weights()
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


def test_kd_is_zero_for_equal_logits():
    _, teacher = logits()
    assert kd_loss(teacher, teacher).abs() < 1e-12


def test_bkd_defers_its_weights():
    student, teacher = (Output(x) for x in logits())
    method = create_method('bkd', prior=ClassPrior(COUNTS), deferred_epochs=160)
    plain, balanced = kd_loss(student.logits, teacher.logits, 2.), create_method('bkd', prior=ClassPrior(COUNTS))
    for epoch, expected in ((0, plain), (159, plain), (160, balanced(student, teacher, None)['bkd_loss'])):
        method.set_epoch(epoch)
        assert torch.equal(method(student, teacher, None)['bkd_loss'], expected)


# dkd

@pytest.mark.parametrize('temperature', [1., 4.])
def test_dkd_parts_with_natural_weights_sum_to_kl(temperature):
    (student, teacher), target = logits(), target_of()
    target_class, non_target = decoupled_kl(student, teacher, target, temperature)
    rest = 1 - F.softmax(teacher / temperature, dim=1).gather(1, target[:, None])[:, 0]
    expected = per_sample_kl(student, teacher, temperature)
    assert torch.allclose(target_class + rest * non_target, expected, rtol=1e-12, atol=1e-14)


def test_dkd_as_the_paper_writes_it():
    (student, teacher), target = logits(), target_of()
    expected = 0.
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        p, q = probabilities(s, 4.), probabilities(t, 4.)
        others_p, others_q = ([x / (1 - full[y]) for c, x in enumerate(full) if c != y] for full in (p, q))
        expected += 0.7 * kl([q[y], 1 - q[y]], [p[y], 1 - p[y]]) + 5. * kl(others_q, others_p)
    assert float(dkd_loss(student, teacher, target, 0.7, 5., 4.)) == pytest.approx(16. * expected / 8, rel=1e-12)


def test_dkd_of_a_sure_teacher_still_teaches_the_other_classes():
    student, _ = logits(dtype=torch.float32)
    teacher = student.clone()
    teacher[:, 0] = 1e4
    teacher[:, 1] += 2.
    student.requires_grad_()
    target_class, non_target = decoupled_kl(student, teacher, torch.zeros(8, dtype=torch.long), 1.)
    exact = per_sample_kl(student.detach()[:, 1:].double(), teacher[:, 1:].double(), 1.)
    assert torch.allclose(non_target.double(), exact, rtol=1e-4, atol=1e-6)


def test_dkd_warms_up():
    (student, teacher), target = (tuple(map(Output, logits()))), target_of()
    method = create_method('dkd', warmup_epochs=20)
    full = create_method('dkd')(student, teacher, target)['dkd_loss']
    for epoch, share in ((0, 1 / 20), (9, 0.5), (19, 1.), (200, 1.)):
        method.set_epoch(epoch)
        assert torch.allclose(method(student, teacher, target)['dkd_loss'], share * full, rtol=1e-12)


def test_dkd_refuses_soft_labels():
    student, teacher = logits()
    with pytest.raises(UserError, match='mixup'):
        create_method('dkd')(Output(student), Output(teacher), F.softmax(teacher, dim=1))
    assert create_method('dkd').needs_hard_labels and not create_method('wsl').needs_hard_labels


# dist

@pytest.mark.parametrize('temperature', [1., 4.])
def test_dist_as_the_paper_writes_it(temperature):
    student, teacher = logits()
    p, q = ([probabilities(row, temperature) for row in x.tolist()] for x in (student, teacher))
    inter = sum(1 - pearson(a, b) for a, b in zip(p, q, strict=True)) / 8
    intra = sum(1 - pearson(a, b) for a, b in zip(zip(*p, strict=True), zip(*q, strict=True), strict=True)) / 10
    expected = temperature ** 2 * (0.5 * inter + 3. * intra)
    assert float(dist_loss(student, teacher, 0.5, 3., temperature)) == pytest.approx(expected, rel=1e-6)


def test_dist_sees_relations_not_scale():
    _, teacher = logits()
    assert abs(float(dist_loss(teacher, teacher))) < 1e-6
    log_p = F.log_softmax(teacher, dim=1)
    rare = log_p - 60. * torch.eye(10, dtype=torch.float64)[3]  # a class that is improbable in every sample
    distance = relation_distance(rare.float(), log_p.float(), 0)
    assert float(distance.max()) < 1e-5


@pytest.mark.parametrize('shape', [(1, 10), (4, 10)])
def test_dist_of_constant_predictions_is_finite(shape):
    student, teacher = torch.zeros(shape, requires_grad=True), logits(*shape, dtype=torch.float32)[1]
    loss = dist_loss(student, teacher, 1., 1., 1.)
    loss.backward()
    assert float(loss) == pytest.approx(2.) and torch.isfinite(student.grad).all()


# dive

@pytest.mark.parametrize('power', [0.5, 1., 2.])
def test_dive_as_the_paper_writes_it(power):
    student, teacher = logits()
    expected = 0.
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [x ** power for x in probabilities(t, 3.)]
        expected += kl([x / sum(q) for x in q], probabilities(s, 3.))
    assert float(dive_loss(student, teacher, 3., power)) == pytest.approx(9. * expected / 8, rel=1e-12)


def test_dive_with_power_one_is_kd():
    student, teacher = logits()
    assert torch.equal(dive_loss(student, teacher, 3., 1.), kd_loss(student, teacher, 3.))


# wsl

def test_wsl_as_the_paper_writes_it():
    (student, teacher), target = logits(), target_of()
    expected = 0.
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        weight = 1 - math.exp(-math.log(probabilities(s, 1.)[y]) / math.log(probabilities(t, 1.)[y]))
        expected += weight * kl(probabilities(t, 2.), probabilities(s, 2.))
    assert float(wsl_loss(student, teacher, target)) == pytest.approx(4. * expected / 8, rel=1e-10)


def test_wsl_weights_at_their_ends():
    sure, wrong = torch.tensor([[200., 0., 0.]]), torch.tensor([[0., 200., 0.]])
    label, soft = torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.]])
    assert float(soft_label_weights(wrong, sure, label)) == 1.
    assert float(soft_label_weights(sure, wrong, label)) == 0.
    assert float(soft_label_weights(sure, sure, label)) == 0.  # both cross-entropies vanish
    for dtype in (torch.float32, torch.bfloat16):
        weight = soft_label_weights(sure.to(dtype), wrong.to(dtype), soft.double())
        assert weight.dtype == torch.float32 and float(weight) == pytest.approx(1 - math.exp(-1))


def test_wsl_weights_carry_no_gradient():
    (student, teacher), target = logits(batch=1), target_of(1)
    student.requires_grad_()
    weight = soft_label_weights(student, teacher, target)
    weighted, plain = (
        torch.autograd.grad(loss, student)[0]
        for loss in (wsl_loss(student, teacher, target, 2.), kd_loss(student, teacher, 2.)))
    assert torch.allclose(weighted, weight * plain, rtol=1e-12)


# ltkd

@pytest.mark.parametrize('counts, expected', [
    ([5, 9, 1], [[1], [0], [2]]),
    ([1, 7, 7, 3], [[1], [2, 3], [0]]),  # a tie goes by index
    ([10, 20, 30, 40, 50], [[4], [3, 2, 1], [0]]),
])
def test_thirds(counts, expected):
    assert [group.tolist() for group in class_thirds(torch.tensor(counts))] == expected


@pytest.mark.parametrize('classes', [3, 8, 10, 100, 1000, 8142])
def test_thirds_hold_every_class_once(classes):
    groups = class_thirds(torch.full((classes,), 3.))
    assert torch.cat(groups).tolist() == list(range(classes))
    assert len(groups[0]) == len(groups[2]) == classes // 3


def test_ltkd_needs_three_classes():
    with pytest.raises(UserError, match='3 or more; there are 2'):
        create_method('ltkd', prior=ClassPrior([4, 2]))


@pytest.mark.parametrize('classes', [3, 10, 11])
@pytest.mark.parametrize('temperature', [1., 4.])
def test_ltkd_terms_unbalanced_and_weighted_by_the_teacher_sum_to_kl(classes, temperature):
    student, teacher = logits(classes=classes)
    groups = class_thirds(torch.arange(classes, 0, -1))
    cross, within = grouped_kl(student, teacher, groups, temperature, rebalance=False, reweight=False)
    assert torch.allclose(cross + within, per_sample_kl(student, teacher, temperature).mean(), rtol=1e-12)
    method = create_method(
        'ltkd', prior=ClassPrior(range(classes, 0, -1)), temperature=temperature, rebalance=False, reweight=False)
    assert torch.allclose(
        method(Output(student), Output(teacher), None)['ltkd_loss'], kd_loss(student, teacher, temperature), rtol=1e-12)


def test_ltkd_as_the_paper_writes_it():
    student, teacher = logits()
    groups = [group.tolist() for group in GROUPS]
    p, q = ([probabilities(row, 4.) for row in x.tolist()] for x in (student, teacher))
    mass_p, mass_q = ([[sum(row[c] for c in group) for group in groups] for row in x] for x in (p, q))
    batch = [sum(column) for column in zip(*mass_q, strict=True)]
    expected = 0.
    for i in range(8):
        balanced = [mass * (sum(batch) / 3) / total for mass, total in zip(mass_q[i], batch, strict=True)]
        expected += 0.6 * kl([x / sum(balanced) for x in balanced], mass_p[i])
        for g, group in enumerate(groups):
            expected += 2. / 3 * kl([q[i][c] / mass_q[i][g] for c in group], [p[i][c] / mass_p[i][g] for c in group])
    assert float(ltkd_loss(student, teacher, GROUPS, 0.6, 2., 4.)) == pytest.approx(16. * expected / 8, rel=1e-12)
    masks = [torch.zeros(student.shape[1], dtype=bool).index_fill(0, group, True) for group in GROUPS]
    with pytest.raises(UserError, match='groups are indices of classes, and these are masks'):
        ltkd_loss(student, teacher, masks)


def test_ltkd_corrects_nothing_in_a_balanced_teacher():
    student, teacher = logits(classes=9)
    groups = class_thirds(torch.arange(9, 0, -1))
    for group in groups:
        teacher[:, group] -= teacher[:, group].logsumexp(dim=1, keepdim=True)
    corrected, plain = (grouped_kl(student, teacher, groups, 1., on, on) for on in (True, False))
    assert torch.allclose(torch.stack(corrected), torch.stack(plain), rtol=1e-12)


def test_ltkd_moves_mass_to_the_tail():
    student, teacher = logits(batch=64)
    teacher[:, GROUPS[0]] += 3.  # a teacher biased to the head
    student.requires_grad_()
    gradient = [
        torch.autograd.grad(grouped_kl(student, teacher, GROUPS, 1., rebalance)[0], student)[0][:, GROUPS[2]].sum()
        for rebalance in (True, False)]
    assert gradient[0] < gradient[1]  # the balanced teacher pushes the tail up harder


# all of them

def run(method, student, teacher, target):
    (term,) = method(Output(student), Output(teacher), target).values()
    return term


@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize('classes', [10, 100, 1000, 8142])
@pytest.mark.parametrize('name', LOGIT_METHODS)
def test_low_precision_logits_give_a_float32_loss_with_every_class(name, classes, standardize):
    method = create_method(name, prior=ClassPrior(torch.logspace(6, 0, classes).round()), standardize=standardize)
    target = target_of(4, classes)
    for dtype in (torch.bfloat16, torch.float16):
        student, teacher = (x.to(dtype) for x in logits(batch=4, classes=classes, dtype=torch.float32))
        exact_student = student.double().requires_grad_()
        exact = run(method, exact_student, teacher.double(), target)
        exact.backward()
        student = student.requires_grad_()
        loss = run(method, student, teacher, target)
        loss.backward()
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(exact), rel=1e-4)
        assert torch.isfinite(student.grad).all()
        if dtype == torch.bfloat16:  # half has no range for gradients of 8,142 classes; the engine scales its loss
            assert (student.grad[:, -1] != 0).all()
            tail = slice(-(classes // 10), None)
            difference = (student.grad[:, tail].double() - exact_student.grad[:, tail]).norm()
            assert difference < 1e-2 * exact_student.grad[:, tail].norm()


@pytest.mark.parametrize('name', LOGIT_METHODS)
def test_autocast_changes_nothing(name):
    (student, teacher), target = logits(dtype=torch.float32), target_of()
    method = create_method(name, prior=ClassPrior(COUNTS))
    plain = run(method, student, teacher, target)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(run(method, student, teacher, target), plain)


@pytest.mark.parametrize('name', LOGIT_METHODS)
def test_every_option_changes_the_loss(name):
    (student, teacher), target = logits(), target_of()
    changes = {
        'temperature': 1.5, 'alpha': 0.3, 'beta': 0.3, 'gamma': 0.3, 'power': 0.7, 'rebalance': False,
        'reweight': False, 'warmup_epochs': 3, 'deferred_epochs': 1}
    plain = create_method(name, prior=ClassPrior(COUNTS))
    before = run(plain, student, teacher, target)
    taken = 0
    for key, value in changes.items():
        if hasattr(plain, key) or (name, key) == ('bkd', 'beta'):
            changed = create_method(name, prior=ClassPrior(COUNTS), **{key: value})
            changed.set_epoch(0)
            assert not torch.isclose(run(changed, student, teacher, target), before), key
            taken += 1
    assert taken >= 2


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
    (lambda: create_method('dkd', beta=-1), 'beta must be at least 0'),
    (lambda: create_method('dist', gama=1.), "did you mean 'gamma'"),
    (lambda: create_method('dive', power=0), 'power must be above 0'),
    (lambda: create_method('wsl', temperature='hot'), 'must be a number'),
    (lambda: create_method('ltkd'), 'pass prior='),
    (lambda: create_method('ltkd', prior=ClassPrior([3, 2, 1]), rebalance='yes'), 'rebalance must be True or False'),
    (lambda: feature_loss(torch.zeros(2, 3), torch.zeros(2, 4)), 'project'),
])
def test_bad_options_say_what_to_do(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert '\n' not in str(error.value)


def test_options_may_be_numbers_of_numpy():
    assert create_method('kd', temperature=np.int64(2), alpha=np.float32(.5)).temperature == 2.


@pytest.mark.parametrize('rebalance', [False, True])
def test_ltkd_makes_up_for_the_class_frequencies_where_it_rebalances(rebalance):
    assert create_method('ltkd', prior=ClassPrior([9, 5, 2]), rebalance=rebalance).corrects_prior == rebalance
