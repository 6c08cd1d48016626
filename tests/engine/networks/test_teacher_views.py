"""What a teacher sees: its own pixels of the student's view, made on the device or by Pillow in the loader."""
import json

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from timm.models import save_for_hf

import timm_ltkd.models  # noqa: F401  (registers resnet20)
from timm_ltkd.distill import Teacher, normalisation
from timm_ltkd.engine.epoch.loop import EpochLoop


@pytest.fixture(scope='module')
def photos(make_images, tmp_path_factory):
    """Images of 24 pixels."""
    folder = tmp_path_factory.mktemp('photos') / 'data'
    return make_images(folder, {'ant': 9, 'bee': 6, 'cat': 4}, {'ant': 3, 'bee': 2, 'cat': 2}, side=24)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A folder: test_resnet for images of 16 pixels, evaluated at a crop share of 0.8."""
    torch.manual_seed(0)
    network = timm.create_model('test_resnet', num_classes=3)
    network.pretrained_cfg = {
        **network.pretrained_cfg, 'num_classes': 3, 'input_size': (3, 16, 16), 'crop_pct': 0.8,
        'interpolation': 'bicubic', 'mean': (0.3, 0.4, 0.5), 'std': (0.2, 0.25, 0.3)}
    folder = tmp_path_factory.mktemp('teacher')
    save_for_hf(network, folder, safe_serialization=True)
    return folder


@pytest.fixture
def argv(photos, teacher):
    return ['--dataset', '', '--data-dir', str(photos), '--img-size', '8', '--workers', '0', '--epochs', '2', '-b', '4',
            '--lr', '0.001', '--warmup-epochs', '0', '--student', 'resnet20', '--kd', 'kd', '--crop-pct', '1',
            '--teacher-checkpoint', str(teacher)]


@pytest.fixture
def seen(monkeypatch):
    """Batches that the training loop gave to student and teacher, with what the teacher said to them."""
    batches = []

    def look(loop, *args):
        def note(task, inputs):
            input = inputs[0]
            student, own = input if isinstance(input, tuple) else (input, input)
            batches.append((student.clone(), own.clone(), task.teacher(own).logits))
        handle = loop.task.register_forward_pre_hook(note)
        try:
            return train_epoch(loop, *args)
        finally:
            handle.remove()
    train_epoch = EpochLoop.run
    monkeypatch.setattr(EpochLoop, 'run', look)
    return batches


def weights(folder):
    return (folder / 'model.safetensors').read_bytes()


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def test_the_student_sees_the_same_with_either(script, argv, tmp_path, seen):
    for where in ('device', 'host'):
        script('distill', [*argv, '--teacher-resize', where, '--experiment', where])
    half = len(seen) // 2
    assert half == 2 * 5
    for device, host in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(device[0], host[0])
        assert device[1].shape[-1] == 8 and host[1].shape[-1] == 16
    assert weights(tmp_path / 'device') != weights(tmp_path / 'host')


def test_on_the_host_the_teacher_sees_the_image_itself(script, argv, tmp_path, seen, photos, teacher):
    """Its logits are those of the network run by hand on timm's own transform."""
    script('distill', [*argv, '--teacher-resize', 'host', '--no-aug', '--epochs', '1', '--experiment', 'run'])
    network = timm.create_model(f'local-dir:{teacher}', pretrained=True).eval()
    mean, std = normalisation(network)
    transform = create_transform(16, is_training=True, no_aug=True, mean=mean, std=std)
    files = sorted((photos / 'train').rglob('*.png'))
    with torch.no_grad():
        wanted = network(torch.stack([transform(Image.open(file)) for file in files]))
    found = torch.cat([logits for _, _, logits in seen])
    distance = torch.cdist(found, wanted)
    assert found.shape[0] >= len(files) == 19
    assert float(distance.min(dim=1).values.max()) < 1e-4, 'each is one of the images'
    assert set(distance.argmin(dim=1).tolist()) == set(range(19))


def test_it_is_measured_as_it_was_trained(script, argv, tmp_path, teacher):
    script('distill', [*argv, '--teacher-resize', 'host', '--experiment', 'run'])
    data = argv[:4]
    script('validate', [*data, '--workers', '0', str(teacher), '--results-file', str(tmp_path / 'own.json')])
    own, = json.loads((tmp_path / 'own.json').read_text()).values()
    found = report(tmp_path / 'run')['teacher']
    assert found.keys() == own.keys() - {'loss'} and found.pop('mistakes') == own['mistakes']
    for key, value in found.items():
        if isinstance(value, dict):  # of the calibration, which holds lists, and the group confusion
            assert value.keys() == own[key].keys()
            assert all(part == pytest.approx(own[key][name], abs=1e-4) for name, part in value.items()), key
        else:
            assert value == pytest.approx(own[key], abs=1e-4), key


def test_the_holdout_too(script, argv, tmp_path):
    script('distill', [
        *argv, '--teacher-resize', 'host', '--holdout', '0.4', '--experiment', 'run'])
    found = report(tmp_path / 'run')
    assert found['teacher']['num_samples'] == 7 and found['holdout']['teacher']['num_samples'] > 0


@pytest.mark.parametrize('more', [
    ['--mixup', '0.8', '--workers', '1'],
    ['--kd', 'krdistill', '--train-crop-mode', 'pad', '--crop-padding', '1'],
])
def test_resumed_is_the_same_as_in_one_go(script, argv, tmp_path, more):
    argv = [*argv, '--teacher-resize', 'host', *more]
    for name in ('whole', 'parts'):
        script('distill', [*argv, '--experiment', name])
    sorted((tmp_path / 'parts/last').glob('checkpoint-*.pt'))[-1].unlink()
    (tmp_path / 'parts/model.safetensors').unlink()
    script('distill', [*argv, '--experiment', 'parts', '--resume', 'auto'])
    assert weights(tmp_path / 'parts') == weights(tmp_path / 'whole')


def test_where_sizes_agree_both_ways_do(script, argv, tmp_path):
    for where in ('device', 'host'):
        script('distill', [*argv, '--img-size', '16', '--teacher-resize', where, '--experiment', where])
    assert weights(tmp_path / 'device') == weights(tmp_path / 'host')


@pytest.mark.parametrize('more, message', [
    (['--reprob', '0.2'], 'not with --reprob'),
    (['--train-crop-mode', 'rkrr'], 'not with --train-crop-mode rkrr'),
    (['--cutmix', '1'], 'not with --cutmix'),
    (['--loader', 'resident'], 'not with --loader resident'),
    (['--cutmix-minmax', '0.2', '0.8'], 'not with --cutmix'),
    (['--teacher', 'resnet20', 'resnet32', '--teacher-checkpoint', 'a', 'b'], 'not of several teachers'),
])
def test_what_two_sizes_cannot_share_is_refused(script, argv, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        script('distill', [*argv, '--teacher-resize', 'host', *more])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('student, own', [(1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize('where', ['device', 'host'])
def test_grey_student_or_teacher(script, argv, tmp_path, seen, student, own, where):
    torch.manual_seed(0)
    network = timm.create_model('test_resnet', num_classes=3, in_chans=own)
    network.pretrained_cfg = {**network.pretrained_cfg, 'num_classes': 3, 'input_size': (own, 16, 16)}
    if own == 1:
        network.pretrained_cfg.update(mean=(0.4,), std=(0.2,))
    save_for_hf(network, tmp_path / 'own', model_args={'in_chans': own}, safe_serialization=True)
    script('distill', [
        *argv, '--teacher-checkpoint', str(tmp_path / 'own'), '--model-kwargs', f'in_chans={student}', '--epochs', '1',
        '--teacher-resize', where, '--experiment', 'run', '--mean', '0.5', '0.4', '0.3', '--std', '0.25'])
    assert {batch[0].shape[1] for batch in seen} == {student}
    config = json.loads((tmp_path / 'run/config.json').read_text())['pretrained_cfg']
    assert config['input_size'] == [student, 8, 8] and len(config['mean']) == student
    loaded = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    assert loaded(torch.zeros(1, student, 8, 8)).shape == (1, 3)
    script('validate', [str(tmp_path / 'run'), '--results-file', str(tmp_path / 'figures.json')])
    figures, = json.loads((tmp_path / 'figures.json').read_text()).values()
    assert figures['top1'] == report(tmp_path / 'run')['student']['top1']


def test_other_channels_are_refused(script, argv, capsys):
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--model-kwargs', 'in_chans=4'])
    assert "--student 'resnet20' takes images of 4 channels; those of the data have 3" in capsys.readouterr().err


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_teacher_in_half_precision(script, argv, tmp_path, seen, dtype):
    script('distill', [*argv, '--teacher-dtype', dtype, '--epochs', '1', '--experiment', 'half'])
    script('distill', [*argv, '--epochs', '1', '--experiment', 'full'])
    half, full = seen[:len(seen) // 2], seen[len(seen) // 2:]
    for (_, _, found), (_, _, wanted) in zip(half, full, strict=True):
        assert found.dtype == torch.float32 and not torch.equal(found, wanted)
        assert torch.allclose(found, wanted, atol=0.05 * float(wanted.abs().max()))


def test_the_teacher_is_compiled_too(script, argv, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda self, **kwargs: compiled.append(type(self).__name__))
    script('distill', [
        *argv, '--torchcompile', 'eager', '--teacher-dtype', 'bfloat16', '--epochs', '1', '--experiment', 'run'])
    assert sorted(compiled) == ['CifarNet', 'ResNet']


def test_a_teacher_takes_pairs_of_sizes(teacher):
    network = timm.create_model(f'local-dir:{teacher}', pretrained=True)
    assert Teacher(network, img_size=(16, 24)).img_size == (16, 24)
    assert Teacher(network, img_size=(16, 24))(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 3)
