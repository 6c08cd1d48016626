"""KRDistill: what each rectification does, what it reduces to, precision, diagnostics, checkpoints."""
import copy
import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import (
    KRDistill,
    Output,
    align_prototypes,
    balanced_kd_loss,
    balanced_prototypes,
    class_directions,
    create_method,
    kd_loss,
    lrd_loss,
    rectification_report,
    rectified_features,
    rectified_logits,
    rrd_loss,
)
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

ROOT = Path(__file__).resolve().parents[2]
COUNTS = [500, 300, 200, 100, 50, 20, 10, 5, 2, 1]
PRIOR = ClassPrior(COUNTS)


def logits(batch=8, classes=10, scale=3., seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, classes, generator=generator, dtype=dtype) * scale for _ in range(2))


def target_of(batch=8, classes=10):
    return torch.arange(batch) * 7 % classes


def features(batch=8, student=6, teacher=12, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, dim, generator=generator, dtype=dtype) + 2. for dim in (student, teacher))


def class_means(classes=10, dim=12, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return 5. + torch.randn(classes, dim, generator=generator, dtype=torch.float64)


def make(**options):
    return create_method('krdistill', prior=PRIOR, student_features=6, teacher_features=12, **options).double()


def outputs(**kwargs):
    (student, teacher), (mine, its) = logits(**kwargs), features()
    return Output(student, mine), Output(teacher, its), target_of()


# logits

def test_swap_lets_the_label_win_where_the_teacher_is_wrong():
    teacher = torch.tensor([[3., 1., 2.], [1., 5., 0.], [0., 0.5, 4.]])
    swapped = rectified_logits(teacher, torch.tensor([2, 1, 0]), 'swap')
    assert swapped.tolist() == [[2., 1., 3.], [1., 5., 0.], [4., 0.5, 0.]]


def test_swap_leaves_a_right_teacher_untouched():
    _, teacher = logits(batch=64)
    right = teacher.argmax(dim=1)
    assert torch.equal(rectified_logits(teacher, right, 'swap'), teacher)
    wrong = (right + 1) % 10
    swapped = rectified_logits(teacher, wrong, 'swap')
    assert torch.equal(swapped.argmax(dim=1), wrong)
    assert torch.equal(swapped.sort(dim=1).values, teacher.sort(dim=1).values), 'the same logits, in other places'
    assert ((swapped != teacher).sum(dim=1) == 2).all()


def test_adjusting_takes_the_prior_off_after_the_swap():
    _, teacher = logits()
    target, log_prior = target_of(), PRIOR.log_prior()
    assert torch.equal(rectified_logits(teacher, target, 'none'), teacher)
    assert torch.allclose(rectified_logits(teacher, target, 'adjust', log_prior, 0.5), teacher - 0.5 * log_prior)
    both, swapped = (rectified_logits(teacher, target, mode, log_prior, 0.5) for mode in ('swap_adjust', 'swap'))
    assert torch.equal(both, swapped - 0.5 * log_prior) and not torch.equal(swapped, teacher)
    assert torch.equal(rectified_logits(teacher, target, 'adjust', log_prior, 0.), teacher)


def test_lrd_is_a_weighted_kl():
    student, teacher = logits()
    p, q = F.softmax(student / 3., dim=1), F.softmax(teacher / 3., dim=1)
    weights = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 9. * sum(float(w * (a * (a / b).log()).sum()) for w, a, b in zip(weights, q, p, strict=True)) / 8
    assert float(lrd_loss(student, teacher, weights, 3.)) == pytest.approx(expected, rel=1e-12)


# features

def test_rectified_features_lean_on_the_prior_by_lambda():
    _, own = features()
    directions = F.normalize(class_means() - 5.)
    target = target_of()
    unit = F.normalize(own)
    assert torch.allclose(rectified_features(own, target, directions, torch.zeros(10)), unit)
    assert torch.allclose(rectified_features(own, target, directions, torch.ones(10)), directions[target])
    lam = torch.linspace(0., 1., 10, dtype=torch.float64)
    for row, f, y in zip(rectified_features(own, target, directions, lam), unit, target, strict=True):
        mixed = (1 - lam[y]) * f + lam[y] * directions[y]
        assert torch.allclose(row, mixed / mixed.norm())
    longer = rectified_features(100. * own, target, directions, lam)
    assert torch.allclose(longer, rectified_features(own, target, directions, lam)), 'length is of no account'


def test_rrd_is_the_cosine_distance():
    mine = torch.tensor([[2., 0.], [0., 3.], [-1., 0.]])
    assert float(rrd_loss(mine, torch.tensor([[1., 0.]] * 3))) == pytest.approx((0. + 1. + 2.) / 3)


@pytest.mark.parametrize('rrd', ['prototype', 'class_mean'])
def test_method_does_what_its_formula_says(rrd):
    student, teacher, target = outputs()
    means = class_means()
    method = make(rrd=rrd, lrd='swap', sample_weights='effective', temperature=3., alpha=0.5, gamma=2., k=7., seed=4)
    method.set_class_means(means)
    terms = method(student, teacher, target)
    weights = PRIOR.effective_number_weights()[target]
    rectified = rectified_logits(teacher.logits, target, 'swap')
    assert torch.allclose(terms['lrd_loss'], 0.5 * lrd_loss(student.logits, rectified, weights, 3.), rtol=1e-10)
    directions = class_directions(means)
    if rrd == 'prototype':
        directions = align_prototypes(balanced_prototypes(10, 12, seed=4), means)
    lam = 7. / (PRIOR.counts + 7.)
    aim = rectified_features(teacher.features - means.mean(dim=0), target, directions, lam)
    expected = 2. * rrd_loss(method.projector(student.features), aim)
    assert torch.allclose(terms['rrd_loss'], expected, rtol=1e-5), 'the buffers hold float32'


def test_the_projectors_bias_can_take_the_place_of_centring():
    method = make()
    _, teacher, target = outputs()
    method.set_class_means(class_means())
    student, _ = features(batch=8)
    centre = student.mean(dim=0)
    centred = F.linear(student - centre, method.projector.weight)
    with torch.no_grad():
        method.projector.bias.copy_(-method.projector.weight @ centre)
    assert torch.allclose(method.projector(student), centred)


# what it reduces to

@pytest.mark.parametrize('temperature', [1., 4.])
def test_both_off_is_kd(temperature):
    (student, teacher), target = logits(), target_of()
    method = create_method('krdistill', prior=PRIOR, rrd='none', lrd='none', temperature=temperature)
    assert not method.needs_features and not method.needs_class_means and not list(method.parameters())
    terms = method(Output(student), Output(teacher), target)
    assert terms.keys() == {'lrd_loss'}
    assert torch.allclose(terms['lrd_loss'], kd_loss(student, teacher, temperature), rtol=1e-12)


@pytest.mark.parametrize('temperature', [1., 2., 5.])
def test_adjusting_alone_at_tau_t_is_bkd_with_inverse_frequency(temperature):
    (student, teacher), target = logits(), target_of()
    method = create_method(
        'krdistill', prior=PRIOR, rrd='none', lrd='adjust', tau=temperature, temperature=temperature,
        sample_weights='uniform')
    by_default = create_method('krdistill', prior=PRIOR, rrd='none', lrd='adjust', temperature=temperature)
    assert by_default.tau == method.tau
    term = method(Output(student), Output(teacher), target)['lrd_loss']
    assert torch.allclose(term, balanced_kd_loss(student, teacher, 1 / PRIOR.counts, temperature), rtol=1e-12)


@pytest.mark.parametrize('lrd', ['swap', 'swap_adjust', 'adjust'])
def test_equal_counts_and_a_right_teacher_are_kd(lrd):
    student, teacher = logits()
    method = create_method('krdistill', prior=ClassPrior([37] * 10), rrd='none', lrd=lrd, temperature=4.)
    term = method(Output(student), Output(teacher), teacher.argmax(dim=1))['lrd_loss']
    assert torch.allclose(term, kd_loss(student, teacher, 4.), rtol=1e-10)


@pytest.mark.parametrize('kind, expected', [
    ('effective', PRIOR.effective_number_weights()),
    ('inverse', 1 / PRIOR.counts / (1 / PRIOR.counts).mean()),
    ('sqrt', PRIOR.counts ** -0.5 / (PRIOR.counts ** -0.5).mean()),
    ('uniform', torch.ones(10, dtype=torch.float64)),
])
def test_sample_weights(kind, expected):
    (student, teacher), target = logits(), target_of()
    method = create_method('krdistill', prior=PRIOR, rrd='none', lrd='swap', sample_weights=kind)
    swapped = rectified_logits(teacher, target, 'swap')
    term = method(Output(student), Output(teacher), target)['lrd_loss']
    assert torch.allclose(term, lrd_loss(student, swapped, expected[target], 2.), rtol=1e-12)
    assert method.corrects_prior == (kind != 'uniform')


def test_a_low_beta_weighs_less():
    weights = [create_method('krdistill', prior=PRIOR, rrd='none', sample_weights='effective', beta=beta).class_weights
               for beta in (0., 0.9)]
    assert torch.equal(weights[0], torch.ones(10, dtype=torch.float64)) and weights[1][-1] > weights[1][0]


# gradients and precision

def test_gradients_reach_student_and_projector_and_not_the_teacher():
    student, teacher, target = outputs()
    method = make()
    method.set_class_means(class_means())
    for tensor in (*student, *teacher):
        tensor.requires_grad_()
    sum(method(student, teacher, target).values()).backward()
    assert all(tensor.grad is None for tensor in teacher)
    assert all(float(tensor.grad.norm()) > 0 for tensor in (*student, *method.parameters()))


@pytest.mark.parametrize('classes', [10, 100, 1000, 8142])
@pytest.mark.parametrize('lrd', ['swap', 'swap_adjust', 'adjust'])
def test_low_precision_and_extremes(classes, lrd):
    prior = ClassPrior(torch.logspace(6, 0, classes).round())
    method = create_method(
        'krdistill', prior=prior, lrd=lrd, rrd='class_mean', sample_weights='effective', student_features=6,
        teacher_features=12)
    method.set_class_means(class_means(classes))
    target = torch.full((8,), classes - 1)
    for extreme in (0., 1e4, -1e4):
        student, teacher = logits(classes=classes, dtype=torch.float32)
        student[:, 0], teacher[:, 0] = extreme, extreme
        student, teacher = (z.bfloat16().requires_grad_() for z in (student, teacher))
        mine, its = (f.bfloat16().requires_grad_() for f in features(dtype=torch.float32))
        terms = method(Output(student, mine), Output(teacher, its), target)
        sum(terms.values()).backward()
        assert all(term.dtype == torch.float32 and torch.isfinite(term) for term in terms.values())
        assert torch.isfinite(student.grad).all() and torch.isfinite(mine.grad).all()
        assert extreme or (student.grad[:, -1] != 0).all(), 'the tail class is not lost'
        exact = lrd_loss(
            student.detach().double(),
            rectified_logits(teacher.detach().double(), target, lrd, prior.log_prior(), tau=2.),
            prior.effective_number_weights()[target])
        assert float(terms['lrd_loss'].detach()) == pytest.approx(float(exact), rel=1e-4)


def test_autocast_keeps_the_losses_in_float32():
    student, teacher, target = outputs()
    student, teacher = (Output(*(x.float() for x in output)) for output in (student, teacher))
    method = make().float()
    method.set_class_means(class_means())
    plain = method(student, teacher, target)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = method(student, teacher, target)
    assert torch.equal(mixed['lrd_loss'], plain['lrd_loss'])
    assert mixed['rrd_loss'].dtype == torch.float32
    assert torch.allclose(mixed['rrd_loss'], plain['rrd_loss'], rtol=0.02), 'only the projector runs in bfloat16'


# class means

@pytest.mark.parametrize('classes, dim', [(10, 12), (10, 8), (10, 4)])
def test_more_or_fewer_classes_than_features(classes, dim):
    method = create_method('krdistill', prior=PRIOR, student_features=6, teacher_features=dim)
    method.set_class_means(class_means(classes, dim))
    assert torch.allclose(method.prior_directions.norm(dim=1), torch.ones(10))
    assert torch.allclose(method.feature_centre.double(), class_means(classes, dim).mean(dim=0))
    student, teacher = Output(logits()[0].float(), torch.randn(8, 6)), Output(logits()[1].float(), torch.randn(8, dim))
    assert torch.isfinite(method(student, teacher, target_of())['rrd_loss'])


def test_class_means_are_in_the_state_dict():
    student, teacher, target = outputs()
    method = make()
    with pytest.raises(UserError, match='set_class_means'):
        method(student, teacher, target)
    method.set_class_means(class_means())
    resumed = make(seed=3)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    for name, term in method(student, teacher, target).items():
        assert torch.equal(resumed(student, teacher, target)[name], term)
    assert {'feature_centre', 'prior_directions', 'projector.weight', 'projector.bias'} == method.state_dict().keys()
    assert copy.deepcopy(method).means_known


def test_a_checkpoint_without_class_means_makes_none_known():
    student, teacher, target = outputs()
    early = make().state_dict()
    for state, strict in (({}, False), (early, True)):
        method = make()
        method.load_state_dict(state, strict=strict)
        with pytest.raises(UserError, match='set_class_means'):
            method(student, teacher, target)
    method.set_class_means(class_means())
    method.load_state_dict({}, strict=False)
    assert method.means_known


def test_set_class_means_draws_no_global_random_numbers():
    state = torch.get_rng_state()
    methods = [make(), make()]
    for method in methods:
        method.set_class_means(class_means())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(methods[0].prior_directions, methods[1].prior_directions)


# diagnostics

def test_statistics_by_shot_group():
    method = make(k=1e9)  # features become the prior's directions
    method.set_class_means(class_means())
    _, teacher = logits(batch=7)
    right = teacher.argmax(dim=1)
    target = torch.tensor([0, 1, 2, 3, 9, 9, 9])  # three many, one medium, three few
    teacher[torch.arange(7), target] += 100. * torch.tensor([1, 1, 0, 1, 1, 0, 0])
    wrong = (teacher.argmax(dim=1) != target).tolist()
    assert wrong[0] is wrong[1] is wrong[3] is wrong[4] is False
    its = class_means()[target]  # an image on its class mean, leaning on the class's prototype
    args = Output(logits(batch=7)[0], features(batch=7)[0]), Output(teacher, its), target
    method(*args)
    method.eval()
    method(*args)
    method.train()
    method(*args)
    sums = method.statistics()
    assert sums['images'].tolist() == [6., 2., 6.], 'twice each, none in eval mode'
    report = method.describe_statistics(sums)
    assert report['swap_share'] == pytest.approx({
        'many': sum(wrong[:3]) / 3, 'medium': 0., 'few': sum(wrong[4:]) / 3})
    own = F.normalize(its - class_means().mean(dim=0))
    shift = 1 - (own * method.prior_directions[target]).sum(dim=1)
    assert report['feature_shift']['many'] == pytest.approx(float(shift[:3].mean()), rel=1e-4)
    assert report['feature_shift']['few'] == pytest.approx(float(shift[4:].mean()), rel=1e-4)
    assert right.shape == (7,) and 'lrd' not in report['inert']
    method.reset_statistics()
    assert method.describe_statistics(method.statistics()) == method.describe_statistics({}) == {}
    method(*args)
    assert method.statistics()['images'].tolist() == [3., 1., 3.]


def test_adjusting_counts_what_it_changes():
    method = create_method('krdistill', prior=PRIOR, rrd='none', lrd='adjust', tau=1.)
    teacher = torch.zeros(2, 10)
    teacher[0, 0], teacher[1, 0] = 3., 50.  # log(500 / 1) is 6.2
    method(Output(torch.zeros(2, 10)), Output(teacher), torch.tensor([0, 0]))
    assert method.describe_statistics(method.statistics())['swap_share'] == {'many': 0.5}, 'no other group has an image'


def test_a_part_that_changes_under_one_percent_is_inert():
    images = torch.tensor([1000., 0., 200.])
    report = rectification_report({
        'images': images, 'swap_share': torch.tensor([9., 0., 1.]), 'feature_shift': torch.tensor([1., 0., 100.])})
    assert report == {
        'swap_share': {'many': pytest.approx(0.009), 'few': pytest.approx(0.005)},
        'feature_shift': {'many': pytest.approx(0.001), 'few': 0.5}, 'inert': ['lrd']}
    assert rectification_report({'images': images, 'swap_share': torch.tensor([9., 0., 3.])})['inert'] == []


def test_the_parts_that_are_off_are_absent():
    student, teacher, target = outputs()
    method = create_method('krdistill', prior=PRIOR, rrd='none', lrd='none')
    method(student, teacher, target)
    assert method.describe_statistics(method.statistics()) == {'inert': []}


def test_a_right_teacher_is_reported_inert():
    student, teacher, _ = outputs()
    method = make(k=0., lrd='swap')
    method.set_class_means(class_means())
    method(student, teacher, teacher.logits.argmax(dim=1))
    assert method.describe_statistics(method.statistics())['inert'] == ['lrd', 'rrd']


def test_standardised_logits_pass_everything_on():
    student, teacher, target = outputs()
    method = make(standardize=True)
    assert method.needs_features and method.needs_class_means and method.needs_hard_labels and method.corrects_prior
    method.set_class_means(class_means())
    first = method(student, teacher, target)
    scaled = method(student._replace(logits=3. * student.logits), teacher, target)
    assert torch.allclose(first['lrd_loss'], scaled['lrd_loss'], rtol=1e-5)
    assert torch.equal(first['rrd_loss'], scaled['rrd_loss'])
    assert float(method.statistics()['images'].sum()) == 16.
    assert 'swap_share' in method.describe_statistics(method.statistics())
    method.reset_statistics()
    assert method.describe_statistics(method.statistics()) == {}


# options

@pytest.mark.parametrize('call, message', [
    (lambda: create_method('krdistill'), 'pass prior='),
    (lambda: create_method('krdistill', prior=PRIOR), 'pass student_features='),
    (lambda: make(rrd='prototypes'), "did you mean 'prototype'"),
    (lambda: make(lrd='swop'), "did you mean 'swap'"),
    (lambda: make(lrd=None), 'lrd cannot be None'),
    (lambda: make(sample_weights='efective'), "did you mean 'effective'"),
    (lambda: make(gama=1.), "did you mean 'gamma'"),
    (lambda: make(k=-1.), 'k must be at least 0'),
    (lambda: make(temperature=0.), 'above 0'),
    (lambda: make(beta=1.), r'beta must be in \[0, 1\)'),
    (lambda: make().set_class_means(torch.ones(10, 11)), r'of shape \[10, 12\], got \[10, 11\]'),
    (lambda: make().set_class_means(torch.full((10, 12), torch.nan)), '120 that are not finite'),
    (lambda: rectified_logits(torch.ones(2, 3), torch.tensor([0, 1]), 'adjust'), 'pass log_prior'),
    (lambda: rectified_logits(torch.ones(2, 3), torch.ones(2, 3), 'swap'), 'mixup'),
    (lambda: make()(*outputs()[:2], torch.ones(8, 10)), 'mixup'),
])
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert '\n' not in str(error.value)


def test_documented_defaults_are_the_methods_own():
    parameters = inspect.signature(KRDistill).parameters.values()
    known = ('prior', 'student_features', 'teacher_features')
    options = {p.name: str(p.default) for p in parameters if p.name not in known}
    table = (ROOT / 'docs' / 'krdistill.md').read_text('utf-8')
    for name, default in options.items():
        line = next(line for line in table.splitlines() if line.startswith('| `') and f'`{name}`' in line.split('|')[1])
        assert line.split('|')[2].strip() == f'`{default}`', name

