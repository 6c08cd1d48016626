"""What methods are told of data and networks: features, standardised logits, the register."""
import ast
import copy
import inspect
import re
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import timm_ltkd.models  # noqa: F401 - registers networks
from timm_ltkd import distill
from timm_ltkd.distill import (
    DistillMethod,
    DistillTask,
    Output,
    StandardizedLogits,
    create_method,
    describe_methods,
    feature_dim,
    kd_loss,
    list_losses,
    list_methods,
    rectified_logits,
    register_loss,
    register_method,
    soft_label_weights,
    standardize_logits,
)
from timm_ltkd.distill.register import make, options_of
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

ROOT = Path(__file__).resolve().parent.parent.parent
STEEP = ClassPrior([500, 300, 200, 100, 50, 20, 10, 5, 2, 1])
VIT = dict(model_name='vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1, num_classes=10)
PAIRS = {
    'cnn-cnn': (dict(model_name='resnet20', num_classes=10), dict(model_name='resnet8x4', num_classes=10)),
    'vit-cnn': (dict(model_name='resnet20', num_classes=10), VIT),
    'cnn-vit': (VIT, dict(model_name='resnet20', num_classes=10)),
    'same': (dict(model_name='resnet20', num_classes=10), dict(model_name='resnet32', num_classes=10)),
}


def networks(pair):
    torch.manual_seed(0)
    return [timm.create_model(**config) for config in PAIRS[pair]]


def logits(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(8, 10, generator=generator, dtype=torch.float64) * 3 for _ in range(2))


# features

@pytest.mark.parametrize('pair', PAIRS)
def test_feature_method_trains_every_pair(pair):
    student, teacher = networks(pair)
    method = create_method('feature', student_features=feature_dim(student), teacher_features=feature_dim(teacher))
    assert isinstance(method.projector, nn.Identity) == (pair == 'same')
    task = DistillTask(student, teacher, method)
    torch.manual_seed(1)
    input, target = torch.randn(4, 3, 32, 32), torch.arange(4)
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        output = task(input, target)
        optimizer.zero_grad()
        output['feature_loss'].backward()
        optimizer.step()
        losses.append(float(output['feature_loss'].detach()))
    assert losses[-1] < losses[0]
    if pair != 'same':
        assert float(method.projector.weight.grad.norm()) > 0
        state = task.get_task_state()['method']
        assert torch.equal(state['projector.weight'], method.projector.weight)


@pytest.mark.parametrize('pair', ['cnn-cnn', 'vit-cnn', 'cnn-vit'])
@pytest.mark.parametrize('name', list_methods())
def test_every_method_trains_every_pair_and_resumes(name, pair):
    def start():
        student, teacher = networks(pair)
        method = create_method(
            name, prior=ClassPrior(range(10, 0, -1)), student_features=feature_dim(student),
            teacher_features=feature_dim(teacher))
        task = DistillTask(student, teacher, method)
        module = task.get_trainable_module()
        return task, module, torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)

    def step(task, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        loss = task(torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4))['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    task, module, optimizer = start()
    if task.method.needs_class_means:
        length = feature_dim(task.teacher.networks[0])
        task.method.set_class_means(5. + torch.randn(10, length, generator=torch.Generator().manual_seed(2)))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    step(task, optimizer, 0)
    assert all(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    saved = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    expected = step(task, optimizer, 1)
    resumed, resumed_module, resumed_optimizer = start()
    resumed_module.load_state_dict(saved[0])
    resumed_optimizer.load_state_dict(saved[1])
    assert torch.equal(step(resumed, resumed_optimizer, 1), expected)
    for old, new in zip(module.parameters(), resumed_module.parameters(), strict=True):
        assert torch.equal(old, new)


def test_feature_loss_is_the_mean_square():
    method = create_method('feature', student_features=2, teacher_features=2, alpha=3.)
    student, teacher = torch.tensor([[1., 2.], [0., 0.]]), torch.tensor([[1., 4.], [2., 2.]])
    terms = method(Output(None, student.bfloat16()), Output(None, teacher), None)
    assert terms['feature_loss'].dtype == torch.float32 and float(terms['feature_loss']) == 3. * (4 + 4 + 4) / 4


def test_projector_has_a_generator_of_its_own():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    lengths = dict(student_features=8, teacher_features=4)
    first, same, other = (create_method('feature', **lengths, seed=seed).projector.weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert 0 < float(first.abs().max()) <= 8 ** -0.5


# what constructors are told

def test_context_goes_to_those_who_ask():
    def asks(*, prior, teacher_features, width=1):
        return prior, teacher_features, width

    prior = ClassPrior([2, 1])
    told = make(asks, 'it', {'width': 3}, {'prior': prior, 'student_features': 5, 'teacher_features': 7}, ['width'])
    assert told == (prior, 7, 3)
    assert make(lambda *, width=1: width, 'it', {}, {'prior': prior}, ['width']) == 1


@pytest.mark.parametrize('call, message', [
    (lambda: create_method('feature', teacher_features=4), 'pass student_features='),
    (lambda: create_method('feature', student_features=4), 'pass teacher_features='),
    (lambda: create_method('feature', student_features=4, teacher_features=4, standardize=True), 'looks at no logits'),
    (lambda: create_method('feature', student_features=4, teacher_features=4, alpah=1.), "did you mean 'alpha'"),
    (lambda: create_method('feature', student_features=4, teacher_features=4, seed='x'), 'seed must be a number'),
    (lambda: create_method('kd', standardise=True), "did you mean 'standardize'"),
    (lambda: create_method('kd', standardize='yes'), 'standardize must be True or False'),
    (lambda: create_method('kd', prior=ClassPrior([9, 1]), standardize=True), 'the z-scores of two logits are'),
    (lambda: create_method('kd', prior=[9, 5, 1], standardize=True), 'prior cannot be a list'),
])
def test_bad_options_say_what_to_do(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert '\n' not in str(error.value)


def test_what_is_registered_is_a_method(own_module):
    with pytest.raises(UserError, match="the distillation method 'none' is no subclass of timm_ltkd.distill.DistillM"):
        register_method('none')(torch.nn.Module)
    with pytest.raises(UserError, match="the loss 'none' is no subclass of timm_ltkd.distill.HardLabelLoss"):
        register_loss('none')(lambda logits, target: 0.)
    assert 'none' not in {*list_methods(), *list_losses()}


def test_an_option_without_a_default_is_asked_for(own_module):
    @register_method('wants')
    class Wants(DistillMethod):
        def __init__(self, *, gamma, delta=1.):
            super().__init__()
    with pytest.raises(UserError, match="method 'wants' needs the option 'gamma'"):
        create_method('wants', delta=2.)
    assert isinstance(create_method('wants', gamma=1.), Wants)
    assert describe_methods()['wants'] == '', 'and not what a method is'


def test_describe_methods_gives_a_line_with_the_paper():
    lines = describe_methods()
    assert list(lines) == list_methods()
    assert {'kd', 'bkd', 'dkd', 'dist', 'dive', 'wsl', 'ltkd', 'feature'} <= lines.keys()
    for name, line in lines.items():
        assert re.search(r'\(.* 20\d\d, arXiv \d{4}\.\d{4,5}\)\.$', line), name
        assert '\n' not in line and len(line) < 120


# standardised logits

def test_a_method_without_an_init_has_no_options():
    class Plain(DistillMethod):
        pass
    for key in ('args', 'kwargs', 'x'):
        with pytest.raises(UserError, match=f"it has no option '{key}'"):
            make(Plain, 'it', {key: 1}, {}, options_of(Plain))
    assert isinstance(make(Plain, 'it', {}, {}, options_of(Plain)), Plain)


def test_standardize_logits_is_the_z_score():
    student, _ = logits()
    expected = (student - student.mean(dim=1, keepdim=True)) / student.std(dim=1, keepdim=True, unbiased=False)
    assert torch.allclose(standardize_logits(student), expected, rtol=1e-7)
    assert standardize_logits(student.bfloat16()).dtype == torch.float32
    constant = torch.full((2, 5), 1e4, requires_grad=True)
    z = standardize_logits(constant)
    z.square().sum().backward()
    assert torch.equal(z, torch.zeros(2, 5)) and torch.isfinite(constant.grad).all()


@pytest.mark.parametrize('name', ['dist', 'dive', 'dkd', 'kd', 'ltkd'])
def test_standardized_methods_ignore_scale_and_shift(name):
    (student, teacher), target = logits(), torch.arange(8)
    plain, method = (create_method(name, prior=STEEP, standardize=on) for on in (False, True))
    (term,) = method(Output(student), Output(teacher), target).values()
    (moved,) = method(Output(5. * student + 3.), Output(0.2 * teacher - 1.), target).values()
    assert torch.allclose(term, moved, rtol=1e-5)
    by_hand = plain(Output(standardize_logits(student)), Output(standardize_logits(teacher)), target)
    assert torch.equal(by_hand[f'{name}_loss'], term)
    assert not torch.isclose(plain(Output(student), Output(teacher), target)[f'{name}_loss'], term)


@pytest.mark.parametrize('name, options', [
    ('bkd', {}), ('bkd', {'beta': 0.5}), ('krdistill', {}),
    ('krdistill', {'lrd': 'swap', 'sample_weights': 'inverse'})])
def test_what_corrects_logits_does_so_before_they_are_standardized(name, options):
    """In units of the plain logits: a student that has learnt what is taught without has nothing to learn with."""
    student, teacher = logits()
    target, rrd = torch.arange(8), {'rrd': 'none'} if name == 'krdistill' else {}
    plain, method = (
        create_method(name, prior=STEEP, standardize=on, temperature=2., **options, **rrd) for on in (False, True))
    if name == 'bkd':
        taught = teacher + 2. * plain.class_weights.log()
    else:
        taught = rectified_logits(teacher, target, plain.lrd, STEEP.log_prior(), 2.)
    for each, learnt in ((plain, taught - 1.), (method, 3. * taught + 1.)):
        (term,), (other,) = (each(Output(z), Output(teacher), target).values() for z in (learnt, student))
        assert abs(float(term)) < 1e-7 < float(other)


def test_standardized_wsl_weighs_by_plain_logits():
    student, teacher = logits()
    target = torch.arange(8)
    method = create_method('wsl', standardize=True, temperature=2., alpha=1.)
    z = [F.layer_norm(x, (10,), eps=1e-7) / 2. for x in (student, teacher)]
    divergence = F.kl_div(z[0].log_softmax(1), z[1].log_softmax(1), reduction='none', log_target=True).sum(1)
    expected = 4. * (soft_label_weights(student, teacher, target) * divergence).mean()
    assert torch.isclose(method(Output(student), Output(teacher), target)['wsl_loss'], expected)


def test_standardized_bkd_by_hand():
    (student, teacher), target = logits(), torch.arange(8)

    def term(name, prior=STEEP, **options):
        method = create_method(name, prior=prior, standardize=True, temperature=2., **options)
        return next(iter(method(Output(student), Output(teacher), target).values()))
    weights = STEEP.effective_number_weights().log()
    z = [F.layer_norm(x, (10,), eps=1e-7) for x in (student, teacher + (2. * weights).to(teacher))]
    assert torch.isclose(term('bkd'), kd_loss(*z, 2.))
    assert torch.isclose(term('bkd', ClassPrior([7] * 10)), term('kd'))
    assert torch.isclose(term('krdistill', rrd='none', lrd='none'), term('kd'))
    adjusted = z[1], F.layer_norm(teacher - (2. * STEEP.log_prior()).to(teacher), (10,), eps=1e-7)
    assert torch.isclose(term('krdistill', rrd='none', lrd='adjust'), kd_loss(z[0], adjusted[1], 2.))


def test_standardized_is_transparent():
    """Whatever the engine asks of a method is asked of the inner one."""
    public = {name for name in vars(DistillMethod) if not name.startswith('_')}
    wrapper = create_method('dkd', standardize=True, warmup_epochs=4)
    assert isinstance(wrapper, StandardizedLogits) and wrapper.needs_hard_labels and not wrapper.needs_features
    wrapper.set_epoch(1)
    assert wrapper.method.scale == 0.5
    of_one_that_is_wrapped = {'uses_logits', 'standardized', 'separate'}
    assert public <= vars(StandardizedLogits).keys() | vars(wrapper).keys() | of_one_that_is_wrapped


def test_standardized_passes_features_on():
    class Peek(DistillMethod):
        needs_features = True

        def forward(self, student, teacher, target):
            return {'peek': student.features.sum() + teacher.features.sum()}

    method = StandardizedLogits(Peek())
    one = Output(torch.ones(2, 3), torch.ones(2, 4))
    assert method.needs_features and float(method(one, one, None)['peek']) == 16.


# documentation

@pytest.mark.parametrize('name', [name for name in list_methods() if name != 'krdistill'])  # which has its own page
def test_documented_options_are_the_methods_own(name):
    parameters = inspect.signature(distill.method._METHODS[name]).parameters
    options = {key: p.default for key, p in parameters.items() if p.default is not p.empty}
    section = re.search(rf'^## {name}$(.*?)(?=^## )', (ROOT / 'docs' / 'methods.md').read_text('utf-8'), re.M | re.S)
    assert section, f'docs/methods.md has no section {name}'
    said = dict(re.findall(r'`(\w+)=([\w.-]+)`', section[1]))
    assert options and {key: ast.literal_eval(said[key]) for key in options} == options
