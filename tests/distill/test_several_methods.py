"""Several methods at once: what they add up to, who is asked for what, and which option goes where."""
import pytest
import timm
import torch
from torch import nn

import timm_ltkd.models  # noqa: F401 - registers networks
from timm_ltkd.distill import (
    BKD,
    DistillMethod,
    DistillTask,
    Output,
    SeveralMethods,
    StandardizedLogits,
    TeacherEnsemble,
    create_method,
    create_methods,
    feature_dim,
    method_options,
    share_options,
)
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

PRIOR = ClassPrior([500, 100, 30, 5, 1])
TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def output(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    return Output(*(torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (5, dim)))


def means(dim, seed=3):
    return torch.randn(5, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHERS = output(4, 0), (output(7, 1), output(9, 2))


# ---- what they add up to

def test_of_two_teachers_each_term_counts_half():
    method = create_methods(
        ['bkd', 'feature'], prior=PRIOR, student_features=4, teacher_features=[7, 9]).double()
    terms = method(STUDENT, TEACHERS, TARGET)
    bkd = create_method('bkd', prior=PRIOR)(STUDENT, TEACHERS[0], TARGET)['bkd_loss']
    feature = method.methods['teacher2'](STUDENT, TEACHERS[1], TARGET)['feature_loss']
    assert terms.keys() == {'teacher1_bkd_loss', 'teacher2_feature_loss'}
    assert torch.allclose(terms['teacher1_bkd_loss'], bkd / 2, rtol=1e-12)
    assert torch.allclose(terms['teacher2_feature_loss'], feature / 2, rtol=1e-12)


def test_two_teachers_of_one_opinion_teach_as_one():
    one = create_method('bkd', prior=PRIOR)(STUDENT, TEACHERS[0], TARGET)['bkd_loss']
    both = create_methods(['bkd', 'bkd'], prior=PRIOR, teacher_features=[None, None])
    assert torch.allclose(sum(both(STUDENT, (TEACHERS[0],) * 2, TARGET).values()), one, rtol=1e-12)


def test_several_of_one_teacher_are_added():
    method = create_methods(
        ['bkd', 'feature', 'kd'], prior=PRIOR, student_features=7, teacher_features=[7])
    student = output(7, 4)
    terms = method(student, TEACHERS[0], TARGET)
    alone = {}
    for name in ('bkd', 'feature', 'kd'):
        alone |= create_method(name, **{
            'bkd': dict(prior=PRIOR), 'feature': dict(student_features=7, teacher_features=7), 'kd': {},
        }[name])(student, TEACHERS[0], TARGET)
    assert terms.keys() == alone.keys() == {'bkd_loss', 'feature_loss', 'kd_loss'}
    assert all(torch.equal(terms[key], alone[key]) for key in terms)


def test_terms_carry_the_name_of_their_method():
    method = create_methods(
        ['krdistill', 'kd'], {'rrd': 'none'}, prior=PRIOR, student_features=4, teacher_features=[7])
    assert method(STUDENT, TEACHERS[0], TARGET).keys() == {'krdistill_lrd_loss', 'kd_loss'}


def test_terms_of_one_name_are_refused():
    class Says(DistillMethod):
        def __init__(self, term):
            super().__init__()
            self.term = term

        def forward(self, student, teacher, target):
            return {self.term: student.logits.sum()}
    method = SeveralMethods({'a': Says('b_loss'), 'a_b': Says('loss')}, separate=False)
    with pytest.raises(UserError, match="two methods return a term that would be called 'a_b_loss'"):
        method(STUDENT, TEACHERS[0], TARGET)


def test_one_name_is_that_method():
    assert type(create_methods(['bkd'], prior=PRIOR)) is BKD
    assert type(create_methods(['bkd'], prior=PRIOR, teacher_features=[7, 9, None])) is BKD


@pytest.mark.parametrize('flag', ['needs_features', 'needs_hard_labels', 'corrects_prior', 'needs_class_means'])
def test_they_need_what_any_of_them_needs(flag):
    context = dict(prior=PRIOR, student_features=4, teacher_features=[7])
    assert not getattr(create_methods(['kd', 'dist'], **context), flag)
    assert getattr(create_methods(['kd', 'krdistill'], **context), flag)


# ---- each with what is its own

def test_each_knows_its_own_teachers_class_means_and_keeps_them():
    def make():
        return create_methods(
            ['krdistill', 'krdistill'], prior=PRIOR, student_features=4, teacher_features=[7, 9]).double()
    method = make()
    with pytest.raises(UserError, match='each of these methods has a teacher of its own'):
        method.set_class_means(means(7))
    for own, dim in zip(method.methods.values(), (7, 9), strict=True):
        own.set_class_means(means(dim))
    first, second = method.methods.values()
    assert first.feature_centre.shape == (7,) and second.feature_centre.shape == (9,)
    assert first.projector.weight.shape == (7, 4) and second.projector.weight.shape == (9, 4)
    assert torch.allclose(second.feature_centre, means(9).mean(0))
    again = make()
    again.load_state_dict(method.state_dict())
    expected = method(STUDENT, TEACHERS, TARGET)
    assert expected.keys() == {f'teacher{i}_{part}_loss' for i in (1, 2) for part in ('lrd', 'rrd')}
    assert all(torch.equal(value, expected[key]) for key, value in again(STUDENT, TEACHERS, TARGET).items())


def test_of_one_teacher_they_share_its_class_means():
    method = create_methods(['kd', 'krdistill'], prior=PRIOR, student_features=4, teacher_features=[7])
    method.set_class_means(means(7))
    assert torch.allclose(method.methods['krdistill'].feature_centre.double(), means(7).mean(0), atol=1e-6)


def test_each_hears_of_the_epoch():
    method = create_methods(['kd', 'bkd'], {'deferred_epochs': 3}, prior=PRIOR)
    for epoch, balanced in ((0, False), (2, False), (3, True)):
        method.set_epoch(epoch)
        assert method.methods['bkd'].balanced is balanced


def test_each_counts_for_itself():
    method = create_methods(
        ['krdistill', 'kd', 'krdistill'], {'k': 1e9}, prior=PRIOR, student_features=4, teacher_features=[7, 9, 9],
    ).double()
    for name, dim in (('teacher1', 7), ('teacher3', 9)):
        method.methods[name].set_class_means(means(dim))
    outputs = (TEACHERS[0], TEACHERS[1], TEACHERS[1])
    method(STUDENT, outputs, TARGET)
    report = method.describe_statistics(method.statistics())
    for name, teacher in (('teacher1', outputs[0]), ('teacher3', outputs[2])):
        own = method.methods[name]
        own.reset_statistics()
        own(STUDENT, teacher, TARGET)
        alone = own.describe_statistics(own.statistics())
        assert report[f'{name}_swap_share'] == alone['swap_share']
        assert report[f'{name}_feature_shift'] == alone['feature_shift']
    assert report.keys() == {
        'inert', *(f'teacher{i}_{figure}' for i in (1, 3) for figure in ('swap_share', 'feature_shift'))}
    assert report['inert'] == []
    method.reset_statistics()
    assert method.describe_statistics(method.statistics()) == method.describe_statistics({}) == {}


def test_an_inert_part_says_whose_it_is():
    method = create_methods(
        ['krdistill', 'krdistill'], {'rrd': 'none', 'lrd': 'swap'}, prior=PRIOR, teacher_features=[None, None])
    right = Output(torch.nn.functional.one_hot(TARGET, 5) * 10.)
    method(STUDENT, (right, Output(-right.logits)), TARGET)
    assert method.describe_statistics(method.statistics())['inert'] == ['teacher1 lrd']


# ---- options

def test_an_option_goes_to_all_that_have_it():
    assert share_options(['bkd', 'feature'], {'alpha': 3, 'beta': 0.9, 'seed': 1, 'standardize': True}) == [
        {'alpha': 3, 'beta': 0.9, 'standardize': True}, {'alpha': 3, 'seed': 1}]
    method = create_methods(
        ['kd', 'feature'], {'standardize': True}, student_features=4, teacher_features=[4])
    assert [type(own) for own in method.methods.values()] == [StandardizedLogits, type(method.methods['feature'])]


def test_an_addressed_option_goes_to_one_and_wins():
    assert share_options(['bkd', 'kd', 'bkd'], {'kd.alpha': 2, 'alpha': 1, 'bkd.temperature': 3}) == [
        {'alpha': 1, 'temperature': 3}, {'alpha': 2}, {'alpha': 1, 'temperature': 3}]
    assert create_methods(['bkd'], {'bkd.temperature': 3}, prior=PRIOR).temperature == 3


def test_options_are_those_that_create_method_takes():
    assert method_options('kd') == ['temperature', 'alpha', 'standardize']
    assert method_options('feature') == ['alpha', 'seed']
    with pytest.raises(UserError, match="unknown distillation method 'kdd'; did you mean 'kd'"):
        method_options('kdd')


@pytest.mark.parametrize('names, options, teachers, message', [
    (['bkd', 'feature'], {'alfa': 1}, 2, "none of the methods bkd, feature has an option 'alfa'; did you mean 'alpha'"),
    (['bkd'], {'alfa': 1}, 1, "method 'bkd' has no option 'alfa'; did you mean 'alpha'"),
    (['bkd', 'kd'], {'bkdd.alpha': 1}, 2, "'bkdd.alpha': 'bkdd' is not among the methods; did you mean 'bkd'"),
    (['bkd', 'kd'], {'kd.beta': 1}, 2, "method 'kd' has no option 'beta'"),
    (['feature'], {'standardize': True}, 1, 'looks at no logits: leave standardize out'),
    (['kd', 'feature'], {'feature.standardize': True}, 1, 'looks at no logits: leave standardize out'),
    (['kd', 'kdd'], {}, 2, "unknown distillation method 'kdd'; did you mean 'kd'"),
    (['kd', 'bkd'], {}, 3, 'methods: 2 for 3 teachers; name one for all, or one for each in the same order'),
    (['kd', 'bkd', 'dkd'], {}, 2, 'methods: 3 for 2 teachers'),
    ([], {}, 1, 'methods: 0 for 1 teachers'),
    (['bkd'], {'prior': PRIOR}, 1, "'prior' is no option: it is an argument of its own"),
    (['bkd', 'kd'], {'bkd.teacher_features': 3}, 2, "'bkd.teacher_features' is no option"),
    (['kd', 'bkd', 'kd'], {}, 1, "methods: 'kd' twice for one teacher; name it once, and give it a larger weight"),
])
def test_what_does_not_fit_is_told(names, options, teachers, message):
    with pytest.raises(UserError) as told:
        create_methods(names, options, prior=PRIOR, student_features=4, teacher_features=[4] * teachers)
    assert message in str(told.value) and '\n' not in str(told.value)


def test_one_name_and_one_length_need_no_list():
    method = create_methods('feature', {'alpha': 2.}, student_features=3, teacher_features=4)
    assert method.projector.weight.shape == (4, 3) and method.alpha == 2.
    assert create_methods('kd', teacher_features=None).temperature == 4.


def test_none_is_refused():
    with pytest.raises(UserError, match='there is none'):
        SeveralMethods({}, separate=False)


# ---- in a task

class Probe(nn.Module):
    """A network that notes whether it was asked for features."""

    def __init__(self, dim, num_classes=5):
        super().__init__()
        self.num_classes, self.num_features, self.asked = num_classes, dim, []
        self.pretrained_cfg = {'mean': (0., 0., 0.), 'std': (1., 1., 1.)}
        self.body, self.fc = nn.Linear(3, dim), nn.Linear(dim, num_classes)

    def forward_features(self, input):
        return self.body(input.mean((2, 3)))

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.fc(features)

    def get_classifier(self):
        return self.fc

    def forward(self, input):
        return self.forward_head(self.forward_features(input))


@pytest.fixture
def pixels():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def probes():
    torch.manual_seed(0)
    return Probe(4), Probe(7), Probe(9)


def test_each_teacher_is_asked_for_what_its_method_needs(probes, pixels):
    student, *networks = probes
    method = create_methods(['kd', 'feature'], student_features=4, teacher_features=[7, 9])
    task = DistillTask(student, TeacherEnsemble(networks), method)
    asked = []
    for i, teacher in enumerate(task.teacher.teachers):
        teacher.register_forward_pre_hook(lambda module, args, i=i: asked.append((i, args[1])))
    result = task(pixels, TARGET)
    assert asked == [(0, False), (1, True)]
    assert result.keys() == {'loss', 'output', 'task_loss', 'teacher1_kd_loss', 'teacher2_feature_loss'}
    own = create_method('kd')(Output(student(pixels)), Output(networks[0](pixels)), TARGET)['kd_loss']
    difference = method.methods['teacher2'].projector(student.forward_features(pixels)) \
        - networks[1].forward_features(pixels)
    expected = result['task_loss'] + own / 2 + difference.square().mean() / 2
    assert torch.allclose(result['loss'], expected, rtol=1e-5)
    result['loss'].backward()
    assert method.methods['teacher2'].projector.weight.grad.abs().sum() > 0
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_one_teacher_is_asked_once(probes, pixels):
    student, network, _ = probes
    method = create_methods(['kd', 'feature', 'dist'], student_features=4, teacher_features=[7])
    task, asked = DistillTask(student, network, method), []
    task.teacher.register_forward_pre_hook(lambda module, args: asked.append(args[1]))
    assert {'kd_loss', 'feature_loss', 'dist_loss'} < task(pixels, TARGET).keys()
    assert asked == [True]
    assert [(teacher, type(own).__name__) for teacher, own in task.lessons] == [
        (task.teacher, 'KD'), (task.teacher, 'Feature'), (task.teacher, 'DIST')]


def test_who_teaches_by_which_method(probes):
    student, *networks = probes
    ensemble = TeacherEnsemble(networks)
    method = create_methods(['kd', 'bkd'], prior=PRIOR, teacher_features=[None, None])
    assert DistillTask(student, ensemble, method).lessons == list(
        zip(ensemble.teachers, method.methods.values(), strict=True))
    one = create_method('kd')
    assert DistillTask(student, ensemble, one).lessons == [(ensemble, one)]


@pytest.mark.parametrize('teachers', [1, 3])
def test_another_number_of_teachers_is_refused(probes, teachers):
    method = create_methods(['kd', 'bkd'], prior=PRIOR, teacher_features=[None, None])
    networks = [Probe(7) for _ in range(teachers)]
    for teacher in (TeacherEnsemble(networks), networks[0]):
        with pytest.raises(UserError, match='give a TeacherEnsemble of 2'):
            DistillTask(probes[0], teacher, method)


def test_networks_of_different_kinds_teach_features_together(pixels):
    torch.manual_seed(0)
    student = timm.create_model('resnet20', num_classes=5)
    networks = [timm.create_model('resnet8x4', num_classes=5), timm.create_model('wrn_16_2', num_classes=5)]
    dims = [feature_dim(network) for network in networks]
    method = create_methods(
        ['krdistill', 'krdistill'], prior=PRIOR, student_features=feature_dim(student), teacher_features=dims)
    task = DistillTask(student, TeacherEnsemble(networks), method)
    for (_, own), dim in zip(task.lessons, dims, strict=True):
        own.set_class_means(means(dim))
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.01)
    task.train()
    losses = []
    for _ in range(4):
        result = task(pixels, TARGET)
        losses.append(float((result['teacher1_rrd_loss'] + result['teacher2_rrd_loss']).detach()))
        optimizer.zero_grad()
        result['loss'].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert {key.split('.')[1] for key in task.get_task_state()['method']} == {'teacher1', 'teacher2'}
