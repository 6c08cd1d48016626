"""`TeacherEnsemble`: several teachers that teach as one, each fed its own way."""
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import timm_ltkd.models  # noqa: F401  (registers resnet20)
from timm_ltkd.distill import DistillTask, PixelAdapter, Teacher, TeacherEnsemble, create_method, kd_loss
from timm_ltkd.errors import UserError


class Probe(nn.Module):
    """Remembers what it is shown; its logits are the mean of each channel, times a factor."""

    def __init__(self, factor=1., num_classes=3, **cfg):
        super().__init__()
        self.num_classes = num_classes
        self.pretrained_cfg = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)} | cfg
        self.factor = nn.Parameter(torch.full((3,), factor))

    def forward(self, input):
        self.seen = input
        return input.mean((2, 3)) * self.factor


@pytest.fixture
def pixels():
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return [timm.create_model(name, num_classes=5).eval() for name in ('resnet20', 'resnet8x4', 'wrn_16_2')]


def test_its_logits_are_the_mean(networks, pixels):
    logits = TeacherEnsemble(networks)(pixels).logits
    assert torch.allclose(logits, sum(network(pixels) for network in networks) / 3, atol=1e-6)
    assert not logits.requires_grad


@pytest.mark.parametrize('temperature', [1., 4.])
def test_it_teaches_the_geometric_mean_at_every_temperature(networks, pixels, temperature):
    logits = TeacherEnsemble(networks)(pixels).logits
    product = torch.stack([F.softmax(network(pixels) / temperature, dim=1) for network in networks]).prod(0) ** (1 / 3)
    assert torch.allclose(F.softmax(logits / temperature, dim=1), product / product.sum(1, keepdim=True), atol=1e-6)


def test_one_teacher_is_that_teacher_to_the_last_bit(networks, pixels):
    alone, ensemble = Teacher(networks[0]), TeacherEnsemble([networks[0]])
    for got, wanted in zip(ensemble(pixels, needs_features=True), alone(pixels, needs_features=True), strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(TeacherEnsemble([networks[0]] * 2)(pixels).logits, alone(pixels).logits)


def test_features_of_several_are_refused(networks, pixels):
    with pytest.raises(UserError, match='the features of several teachers have nothing in common'):
        TeacherEnsemble(networks)(pixels, needs_features=True)


def test_each_sees_its_own_pixels(pixels):
    probes = Probe(), Probe(mean=(0., 0., 0.), std=(1., 1., 1.))
    ensemble = TeacherEnsemble([Teacher(probes[0], img_size=20), probes[1]])
    ensemble.expect_input((0., 0., 0.), (1., 1., 1.))
    ensemble(pixels)
    larger = PixelAdapter((0.5,) * 3, (0.5,) * 3, (20, 20))
    assert torch.allclose(probes[0].seen, larger(pixels * 2 - 1), atol=1e-5)
    assert probes[1].seen is pixels


def test_each_has_its_own_precision(networks, pixels):
    exact = TeacherEnsemble(networks)(pixels).logits
    ensemble = TeacherEnsemble([Teacher(networks[0], dtype=torch.bfloat16), *networks[1:]])
    logits = ensemble(pixels).logits
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, exact, atol=0.05 * float(exact.abs().max())) and not torch.equal(logits, exact)


def test_half_precision_logits_are_averaged_in_full():
    probes = [Probe(2.).half(), Probe(2 ** -10).half()]  # 2048 and 1, whose sum float16 rounds
    logits = TeacherEnsemble(probes)(torch.full((1, 3, 2, 2), 1024., dtype=torch.half)).logits
    assert torch.equal(logits, torch.full((1, 3), 1024.5))


def test_it_is_frozen_and_never_trains(networks):
    ensemble = TeacherEnsemble(networks)
    assert ensemble.train() is ensemble
    assert not any(module.training for module in ensemble.modules())
    assert not any(parameter.requires_grad for parameter in ensemble.parameters())


def test_label_spaces():
    ensemble = TeacherEnsemble([Probe(), nn.Flatten(), Probe()])
    assert ensemble.num_classes == 3
    ensemble.check_label_space(3)
    with pytest.raises(UserError, match='has 3 classes and the student.s 4'):
        ensemble.check_label_space(4)
    with pytest.raises(UserError, match="the teachers' heads have 3 and 4 classes"):
        TeacherEnsemble([Probe(num_classes=4), Probe()])
    assert TeacherEnsemble([nn.Flatten()]).num_classes is None


def test_none_is_refused():
    with pytest.raises(UserError, match='at least one teacher'):
        TeacherEnsemble([])


def test_a_task_takes_it_for_a_teacher(pixels):
    student, probes, target = Probe(0.5), [Probe(1.), Probe(3.)], torch.tensor([0, 1, 2, 0])
    task = DistillTask(student, TeacherEnsemble(probes), create_method('kd', temperature=2., alpha=1.))
    result = task(pixels, target)
    expected = kd_loss(student(pixels), pixels.mean((2, 3)) * 2, temperature=2.)
    assert torch.allclose(result['loss'] - result['task_loss'], expected, atol=1e-6)
    result['loss'].backward()
    assert student.factor.grad is not None and all(probe.factor.grad is None for probe in probes)
    with pytest.raises(UserError, match='must share one label space'):
        DistillTask(Probe(num_classes=4), TeacherEnsemble(probes), create_method('kd'))


def test_a_task_compiles_all_its_networks(networks, pixels):
    task = DistillTask(timm.create_model('resnet20', num_classes=5), TeacherEnsemble(networks), create_method('kd'))
    before = task.teacher(pixels).logits
    task.compile(backend='eager')
    assert all(network._compiled_call_impl is not None for network in networks)
    assert torch.allclose(task.teacher(pixels).logits, before, atol=1e-6)
