"""LDAM through the scripts: its classifier is trained, saved and resumed, and exported as any other."""
import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from timm_ltkd.distill import CosineLinear
from timm_ltkd.engine.run_folder import finished
from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files

TINY_VIT = ['vit_tiny_patch16_224', '--model-kwargs', 'patch_size=4', 'embed_dim=16', 'depth=2', 'num_heads=2']
LDAM = ['--loss', 'ldam', '--loss-kwargs', 'deferred_epochs=1']


@pytest.fixture
def trained(monkeypatch):
    """The networks that were exported, as they were trained."""
    networks, export_network = [], finished.export_network
    monkeypatch.setattr(
        finished, 'export_network', lambda *args: (networks.append(args[1]), export_network(*args)))
    return networks


def same_classes(network, folder):
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    with torch.no_grad():
        ours, theirs = network.eval()(images), loaded(images)
    sure, as_sure = (logits.softmax(dim=1).amax(dim=1).mean() for logits in (ours, theirs))
    return torch.equal(ours.argmax(dim=1), theirs.argmax(dim=1)) and abs(sure - as_sure) < 0.1


@pytest.mark.parametrize('more', [
    ['--model', 'resnet20'],
    ['--model', *TINY_VIT],
    ['--model', 'resnet20', '--model-ema', '--model-ema-decay', '0.5'],
])
def test_train(script, options, tmp_path, trained, more):
    script('train', [*options, *LDAM, *more, '--experiment', 'run'])
    assert isinstance(trained[0].get_classifier(), CosineLinear), 'still, after the export'
    assert same_classes(trained[0], tmp_path / 'run')
    head = 'fc' if 'resnet20' in more else 'head'
    weights = load_file(tmp_path / 'run/model.safetensors')
    assert not weights[f'{head}.bias'].any() and f'{head}.running_mean_norm' not in weights
    state = torch.load(checkpoint_files(tmp_path / 'run/last')[0], weights_only=True)['model']
    assert f'{head}.running_mean_norm' in state and f'{head}.bias' not in state
    script('validate', [str(tmp_path / 'run'), '--workers', '0', '--results-file', str(tmp_path / 'r.json')])
    measured, = json.loads((tmp_path / 'r.json').read_text()).values()
    told = json.loads((tmp_path / 'run/report.json').read_text())['student']
    assert measured['top1'] == told['top1'] and measured['ece'] == pytest.approx(told['ece'], abs=1e-3)


@pytest.mark.parametrize('kd', ['kd', 'bkd'])
def test_distill(script, options, teacher, tmp_path, trained, kd):
    script('distill', [
        *options, *LDAM, '--student', 'resnet20', '--teacher-checkpoint', str(teacher), '--kd', kd, '--experiment',
        'run'])
    network, = trained
    assert isinstance(network.fc, CosineLinear) and same_classes(network, tmp_path / 'run')


def test_a_network_without_linear_classifier_is_told_before_the_teacher(script, options, capsys, monkeypatch):
    monkeypatch.setattr('timm_ltkd.engine.seeds.fit.fit', None)
    with pytest.raises(SystemExit) as stopped:
        script('distill', [
            *options, *LDAM, '--student', 'deit_tiny_distilled_patch16_224',
            '--model-kwargs', 'depth=1', 'patch_size=4'])
    assert stopped.value.code == 2 and 'that of VisionTransformerDistilled is several layers' in capsys.readouterr().err


@pytest.mark.parametrize('more, message', [
    (['--smoothing', '0.1'], 'no label smoothing'),
    (['--mixup', '0.2'], '--loss ldam needs to know the one class'),
])
def test_what_has_no_one_label_is_refused(script, options, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        script('train', [*options, *LDAM, '--model', 'resnet20', *more])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
