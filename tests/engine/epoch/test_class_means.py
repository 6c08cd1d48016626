"""Class means of a teacher, and a run that uses them: computed once, kept in the checkpoint, and reported on."""
import json
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from timm import create_model

from timm_ltkd.data import create_eval_loader, create_splits
from timm_ltkd.distill import Teacher
from timm_ltkd.distill.krdistill import KRDistill
from timm_ltkd.engine import teaching
from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files
from timm_ltkd.engine.teaching import teacher_class_means
from timm_ltkd.report.summary import read_summary


@pytest.fixture(scope='module')
def argv(options, train_once):
    """A distillation between features of 256 and 64 numbers."""
    teacher = str(train_once('resnet8x4'))
    return [*options, '--student', 'resnet20', '--teacher-checkpoint', teacher, '--kd', 'krdistill']


@pytest.fixture
def passes(monkeypatch):
    """The passes over the training images that were made: (teacher, loader, means)."""
    made = []

    def watch(teacher, loader, *args):
        made.append((teacher, loader, teacher_class_means(teacher, loader, *args)))
        return made[-1][-1]
    monkeypatch.setattr(teaching, 'teacher_class_means', watch)
    return made


def method_state(folder):
    state = torch.load(checkpoint_files(folder / 'last')[0], weights_only=True)
    return {key.removeprefix('method.'): value for key, value in state['model'].items() if key.startswith('method.')}


def test_means_of_each_class(images):
    data = create_splits('', root=str(images))
    network = create_model('resnet20', num_classes=3).eval()

    def transform(image):
        return torch.from_numpy(np.array(image.convert('RGB'))).permute(2, 0, 1) / 255 - 0.5
    loader = create_eval_loader(data.train, transform, batch_size=5)
    means = teacher_class_means(Teacher(network), loader, Accelerator(), 3)
    with torch.no_grad():
        rows = [(network.forward_head(network.forward_features(image[None]), pre_logits=True)[0].double(), label)
                for image, label, _ in loader.dataset]
    for label, mean in enumerate(means):
        own = torch.stack([row for row, y in rows if y == label])
        assert torch.allclose(mean, own.mean(dim=0), rtol=1e-5, atol=1e-6)
    assert means.dtype == torch.float64 and means.shape == (3, 64)


def test_prototypes_that_take_long_are_told_of(script, argv, monkeypatch, log):
    take, line = KRDistill.set_class_means, 'still making what the method learns from of the class means'

    def slow(method, means):
        until = time.monotonic() + 10
        while not any(told.startswith(line) for told in log) and time.monotonic() < until:
            time.sleep(0.01)
        take(method, means)
    monkeypatch.setattr(KRDistill, 'set_class_means', slow)
    monkeypatch.setattr('timm_ltkd.progress._SLOW', 0.)
    script('distill', [*argv, '--epochs', '1'])
    assert any(told.startswith(line) for told in log)


def test_a_loader_that_leaves_images_out_is_noticed(images):
    data = create_splits('', root=str(images))
    loader = create_eval_loader(data.train, lambda image: torch.zeros(3, 8, 8), batch_size=5, rank=0, world_size=2)
    with pytest.raises(RuntimeError, match='exactly once'):
        teacher_class_means(Teacher(create_model('resnet20', num_classes=3)), loader, Accelerator(), 3)


def test_a_run_makes_one_pass_without_augmentation(script, argv, passes, tmp_path):
    script('distill', [*argv, '--epochs', '1', '--hflip', '0.5', '--color-jitter', '0.4', '--experiment', 'run'])
    (teacher, loader, means), = passes
    assert sorted(index for _, _, index in loader.dataset) == list(range(23))
    first, second = (loader.dataset[5][0] for _ in range(2))
    assert torch.equal(first, second)
    state = method_state(tmp_path / 'run')
    assert state['prior_directions'].shape == (3, 256) and state['projector.weight'].shape == (256, 64)
    assert torch.allclose(state['feature_centre'].double(), means.mean(dim=0), rtol=1e-6)


def test_a_resumed_run_has_the_same_means_and_computes_none(script, interrupt, argv, passes, tmp_path):
    argv = [*argv, '--model-ema', '--model-ema-decay', '0.9']
    script('distill', [*argv, '--experiment', 'whole'])
    interrupt(2)
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--experiment', 'resumed'])
    assert len(passes) == 2
    begun = method_state(tmp_path / 'resumed')
    script('distill', [*argv, '--experiment', 'resumed', '--resume', 'auto'])
    assert len(passes) == 2, 'what is in the checkpoint is not computed again'
    whole, resumed = (method_state(tmp_path / run) for run in ('whole', 'resumed'))
    assert whole.keys() == resumed.keys() == {
        'feature_centre', 'prior_directions', 'projector.weight', 'projector.bias'}
    for key in whole:
        assert torch.equal(whole[key], resumed[key]), key
        assert torch.equal(begun[key], resumed[key]) == (not key.startswith('projector')), key
    for file in ('model.safetensors', 'summary.csv', 'per_class.csv'):
        assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'resumed' / file).read_bytes(), file
    reports = [json.loads((tmp_path / run / 'report.json').read_text())['run'] for run in ('whole', 'resumed')]
    assert reports[0]['rectification'] == reports[1]['rectification']
    state = torch.load(checkpoint_files(tmp_path / 'whole/last')[0], weights_only=True)
    for key in ('feature_centre', 'prior_directions'):
        assert torch.equal(state['ema'][f'method.{key}'], whole[key]), 'an average of equal values'


def test_what_was_rectified_is_reported(script, argv, tmp_path, log):
    script('distill', [*argv, '--experiment', 'run', '--epochs', '2'])
    rows = read_summary(tmp_path / 'run/summary.csv')
    said = json.loads((tmp_path / 'run/report.json').read_text())['run']['rectification']
    assert said.keys() == {'swap_share', 'feature_shift', 'inert'}
    for figure in ('swap_share', 'feature_shift'):
        assert said[figure].keys() == {'few'}, 'no class here has 20 images'
        assert 0 <= said[figure]['few'] <= 2
        assert said[figure]['few'] == rows[-1][f'{figure}_few'] and f'{figure}_few' in rows[0]
    assert 0 < said['feature_shift']['few'], 'classes of 13 images and fewer lean on the prior by more than half'
    script('distill', [*argv, '--experiment', 'run', '--epochs', '2', '--resume', 'auto'])
    again = json.loads((tmp_path / 'run/report.json').read_text())['run']['rectification']
    assert again == said, 'also by a run that had nothing left to train'


def test_an_inert_part_is_told(script, argv, tmp_path, log):
    script('distill', [*argv, '--experiment', 'run', '--epochs', '1', '--kd-kwargs', 'k=0', 'gamma=0.1'])
    assert any('rrd' in line and 'changed next to nothing' in line for line in log)
    assert 'rrd' in json.loads((tmp_path / 'run/report.json').read_text())['run']['rectification']['inert']


def test_a_method_without_diagnostics_reports_none(script, argv, passes, tmp_path):
    script('distill', [*argv, '--experiment', 'run', '--epochs', '1', '--kd', 'kd'])
    assert 'rectification' not in json.loads((tmp_path / 'run/report.json').read_text())['run']
    assert not passes
    script('distill', [*argv, '--experiment', 'logits', '--epochs', '1', '--kd-kwargs', 'rrd=none'])
    assert not passes, 'nor is a pass made for logits alone'


@pytest.mark.parametrize('kwargs, message', [
    (['lrd=swop'], "did you mean 'swap'"), (['gama=1'], "did you mean 'gamma'"), (['teacher_features=3'], 'comes from'),
])
def test_a_wrong_option_is_told_before_a_teacher_is_trained(script, argv, tmp_path, capsys, kwargs, message):
    with pytest.raises(SystemExit) as stopped:
        script('distill', [*argv, '--teacher', 'resnet8x4', '--teacher-checkpoint', '', '--experiment', 'run',
                           '--kd-kwargs', *kwargs])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_transformer_teaches_a_cnn(script, options, tmp_path):
    vit = '--model vit_tiny_patch16_224 --model-kwargs patch_size=4 embed_dim=16 depth=2 num_heads=2'.split()
    script('train', [*options, *vit, '--epochs', '1', '--experiment', 'teacher'])
    script('distill', [*options, '--student', 'resnet20', '--teacher-checkpoint', str(tmp_path / 'teacher'), '--kd',
                       'krdistill', '--epochs', '1', '--experiment', 'run'])
    assert method_state(tmp_path / 'run')['projector.weight'].shape == (16, 64)
