"""`Teacher`: frozen, fed as it expects, and of this label space."""
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

import timm_ltkd.models  # noqa: F401  (registers resnet20)
from timm_ltkd.distill import DistillTask, PixelAdapter, Teacher, create_method, normalisation
from timm_ltkd.errors import UserError


class Probe(nn.Module):
    """Remembers what it is shown; its logits are the mean of each channel."""
    num_classes = 3

    def __init__(self, **cfg):
        super().__init__()
        self.pretrained_cfg = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)} | cfg
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, input):
        self.seen = input
        return input.mean((2, 3)) * self.scale


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def normalise(pixels, mean, std):
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_it_is_frozen_and_never_trains(pixels):
    teacher = Teacher(Probe())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.train() is teacher and not teacher.training and not teacher.model.training
    assert not teacher(pixels.requires_grad_()).logits.requires_grad


@pytest.mark.parametrize('mean, std', [
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
])
def test_it_sees_pixels_normalised_its_own_way(pixels, mean, std):
    probe = Probe(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    teacher = Teacher(probe)
    teacher.expect_input(mean, std)
    teacher(normalise(pixels, mean, std))
    assert torch.allclose(probe.seen, normalise(pixels, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD), atol=1e-6)


def test_equal_normalisation_changes_no_bit(pixels):
    probe = Probe()
    teacher = Teacher(probe)
    teacher.expect_input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    teacher(pixels)
    assert probe.seen is pixels


def test_the_task_tells_it_the_students_normalisation(pixels):
    student, probe = Probe(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), Probe()
    task, target = DistillTask(student, probe, create_method('kd')), torch.tensor([0, 1])
    task(normalise(pixels, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), target)
    assert torch.allclose(probe.seen, normalise(pixels, (0.5,) * 3, (0.5,) * 3), atol=1e-6)
    task = DistillTask(student, probe, create_method('kd'), mean=(0., 0., 0.), std=(1., 1., 1.))
    task(pixels, target)
    assert torch.allclose(probe.seen, normalise(pixels, (0.5,) * 3, (0.5,) * 3), atol=1e-6)


def test_it_may_see_another_size(pixels):
    probe = Probe()
    Teacher(probe, img_size=20)(pixels)
    assert probe.seen.shape == (2, 3, 20, 20) and Teacher(probe, img_size=(20, 16)).img_size == (20, 16)
    smooth = F.interpolate(pixels, (20, 20), mode='bicubic', antialias=True, align_corners=False)
    assert float((probe.seen - smooth).abs().max()) < 0.1, 'but for rounding and cutting off'
    Teacher(probe, img_size=12)(pixels)
    assert probe.seen is pixels


def test_a_network_of_fixed_size_gets_its_size(pixels):
    probe = Probe(fixed_input_size=True, input_size=(3, 16, 16))
    Teacher(probe)(pixels)
    assert probe.seen.shape == (2, 3, 16, 16)
    Teacher(Probe(input_size=(3, 16, 16)))(pixels)


@pytest.mark.parametrize('img_size', [32, 48])
def test_a_vision_transformer_gets_its_size(pixels, img_size):
    vit = timm.create_model(
        'vit_tiny_patch16_224', img_size=img_size, num_classes=3, embed_dim=24, num_heads=2, depth=1)
    output = Teacher(vit)(pixels, needs_features=True)
    assert output.logits.shape == (2, 3) and output.features.shape == (2, 24)
    larger = PixelAdapter(*normalisation(vit), (img_size, img_size))(pixels)
    assert torch.allclose(output.logits, vit(larger), atol=1e-6)


def test_a_head_that_would_be_random_is_refused():
    with pytest.raises(UserError, match='has 1000 classes and the data 7: it would be random'):
        Teacher('resnet18', num_classes=7)


def test_a_name_without_weights_is_refused():
    with pytest.raises(UserError, match="timm knows no weights for 'resnet20'"):
        Teacher('resnet20', num_classes=100)


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="unknown model 'resnet21'; did you mean 'resnet"):
        Teacher('resnet21', num_classes=100)


def test_weights_of_ones_own_are_loaded_for_a_name(tmp_path, pixels):
    network = timm.create_model('resnet20', num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / 'weights.pth')
    teacher = Teacher('resnet20', num_classes=3, pretrained_path=str(tmp_path / 'weights.pth'))
    assert torch.equal(teacher(pixels).logits, network(pixels))
    assert teacher.num_classes == 3


@pytest.mark.parametrize('model, options, message', [
    (Probe(), dict(num_classes=3), 'pretrained_path is for a model given by name, and this is a network'),
    ('resnet20', {}, "'resnet20' with pretrained_path: give num_classes"),
    ('resnet20', dict(num_classes=2, class_map=[0, 2]), 'with a class_map, make the network first'),
])
def test_weights_that_would_not_be_loaded_are_refused(model, options, message):
    with pytest.raises(UserError, match=message) as error:
        Teacher(model, pretrained_path='weights.pth', **options)
    assert '\n' not in str(error.value)


def test_the_label_space_is_checked():
    teacher = Teacher(Probe())
    teacher.check_label_space(3)
    with pytest.raises(UserError, match='has 3 classes and the student.s 4'):
        teacher.check_label_space(4)
    silent = nn.Flatten()
    assert Teacher(silent).num_classes is None
    Teacher(silent).check_label_space(4)


def test_half_precision(pixels):
    network = timm.create_model('resnet20', num_classes=3).eval()
    exact = Teacher(network)(pixels, needs_features=True)
    exact = [tensor.clone() for tensor in exact]
    teacher = Teacher(network, dtype=torch.bfloat16)
    assert network.fc.weight.dtype == torch.bfloat16
    teacher.expect_input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # another than its own: float32 until the network
    half = teacher(normalise(normalise(pixels, (-0.4914, -0.4822, -0.4465), (1.,) * 3), (0., 0., 0.), (1.,) * 3), True)
    assert half.logits.dtype == half.features.dtype == torch.float32
    teacher.expect_input(network.pretrained_cfg['mean'], network.pretrained_cfg['std'])
    half = teacher(pixels, needs_features=True)
    for got, wanted in zip(half, exact, strict=True):
        assert torch.allclose(got, wanted, atol=0.05 * float(wanted.abs().max())) and not torch.equal(got, wanted)


def test_double_precision_takes_single_images(pixels):
    network = timm.create_model('resnet20', num_classes=3).eval()
    exact = network(pixels)
    output = Teacher(network, dtype=torch.float64)(pixels, needs_features=True)
    assert output.logits.dtype == output.features.dtype == torch.float64
    assert torch.allclose(output.logits.float(), exact, atol=1e-5)


def test_features_are_those_before_the_classifier(pixels):
    network = timm.create_model('resnet20', num_classes=3).eval()
    output = Teacher(network)(pixels, needs_features=True)
    assert output.features.shape == (2, 64)
    assert torch.allclose(network.fc(output.features), output.logits, atol=1e-6)
    assert torch.allclose(output.logits, network(pixels), atol=1e-6)
    assert Teacher(network)(pixels).features is None


def test_features_of_a_network_that_has_none_are_refused(pixels):
    with pytest.raises(UserError, match='Probe has no get_classifier'):
        Teacher(Probe())(pixels, needs_features=True)


def test_a_state_dict_holds_the_network_alone():
    teacher = Teacher(Probe(mean=(0.1, 0.2, 0.3)))
    teacher.expect_input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert set(teacher.state_dict()) == {'model.scale'}


def test_a_class_map_takes_the_logits_of_its_classes(pixels):
    network = timm.create_model('resnet20', num_classes=7).eval()
    teacher = Teacher(network, class_map=[5, 0, 2])
    logits = network(pixels)
    assert torch.equal(teacher(pixels).logits, logits[:, [5, 0, 2]])
    assert teacher.num_classes == 3
    teacher.check_label_space(3)
    with pytest.raises(UserError, match='has 3 classes'):
        teacher.check_label_space(7)
    assert set(teacher.state_dict()) == {f'model.{key}' for key in network.state_dict()}


@pytest.mark.parametrize('class_map, message', [
    ([5, 0, 7], "goes from 0 to 7 and the teacher's head has 7 classes"),
    ([5, -1], "goes from -1 to 5"),
    ([5, 0, 5], 'none of them twice'),
    ([], 'a class map names'),
])
def test_a_class_map_that_does_not_fit(class_map, message):
    with pytest.raises(UserError, match=message):
        Teacher(timm.create_model('resnet20', num_classes=7), class_map=class_map)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_conversion_of_pixels_exact(pixels, dtype):
    probe = Probe(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    teacher = Teacher(probe, dtype=dtype)
    teacher.expect_input((0., 0., 0.), (1., 1., 1.))
    assert teacher.dtype == dtype and teacher(pixels).logits.dtype == torch.float32
    exact = normalise(pixels, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert torch.allclose(probe.seen.float(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
