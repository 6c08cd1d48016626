"""Networks that are not made as timm makes its own: they go through the scripts, or a line says why not."""
import json
import shutil
from contextlib import suppress

import pytest
import timm
import torch
from timm.models import _registry
from torch import nn

from timm_ltkd.engine.networks.create import create_network


class ByHand(nn.Module):
    """As a user may write it for timm: a forward and a last layer, and nothing that timm's own have beside it."""

    def __init__(self, num_classes, returns=lambda logits: logits):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(6, num_classes)
        self.returns = returns

    def forward(self, input):
        return self.returns(self.last(self.body(input)))


@pytest.fixture(scope='module', autouse=True)
def _registered():
    """Two networks, for as long as these tests run."""
    def ltkd_by_hand(num_classes=1000, **timms):
        return ByHand(num_classes)

    def ltkd_by_hand_pair(num_classes=1000, **timms):
        return ByHand(num_classes, lambda logits: (logits, logits))

    with pytest.MonkeyPatch.context() as patch:
        for entrypoint in (ltkd_by_hand, ltkd_by_hand_pair):
            patch.setitem(_registry._model_entrypoints, entrypoint.__name__, entrypoint)
            patch.setitem(_registry._model_to_module, entrypoint.__name__, 'by_hand')
        yield


@pytest.fixture
def options(options):
    return [*options, '--epochs', '1', '--mean', '0.5', '0.5', '0.5', '--std', '0.5', '0.5', '0.5']


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def figures(folder):
    return json.loads((folder / 'report.json').read_text())['student']


def test_one_by_hand_trains_exports_and_is_measured(script, options, images, tmp_path, capsys):
    script('train', [*options, '--model', 'ltkd_by_hand', '--experiment', 'run'])
    config = json.loads((tmp_path / 'run/config.json').read_text())
    modes = {(tmp_path / 'run' / name).stat().st_mode for name in ('model.safetensors', 'config.json', 'args.yaml')}
    assert len(modes) == 1, 'others may read the weights as any file'
    assert (config['architecture'], config['num_classes']) == ('ltkd_by_hand', 3)
    script('validate', [str(tmp_path / 'run'), '--workers', '0', '--results-file', str(tmp_path / 'r.json')])
    (again,) = json.loads((tmp_path / 'r.json').read_text()).values()
    assert again['top1'] == figures(tmp_path / 'run')['top1'] and again['num_samples'] == 11
    capsys.readouterr()
    script('validate', [str(tmp_path / 'run'), '--workers', '0', '--predict', str(images / 'val')])
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_weights_alone_of_one_by_hand_see_images_as_timm_makes_them(script, options, tmp_path, log):
    script('train', [*options, '--model', 'ltkd_by_hand', '--experiment', 'run'])
    weights = shutil.move(tmp_path / 'run/model.safetensors', tmp_path / 'weights.safetensors')
    data = options[:options.index('--img-size')]
    script('validate', [str(weights), '--model', 'ltkd_by_hand', *data, '--workers', '0'])
    assert 'does not say what images it was trained on; taken to be of 224 pixels' in '\n'.join(log)


def test_pretrained_weights_of_a_file_come_as_in_timm(script, options, tmp_path, capsys):
    """From a place that the options name, so that nobody asks the hub; and not where others are to start from."""
    weights = timm.create_model('resnet20', num_classes=100).state_dict()
    torch.save(weights, tmp_path / 'file.pth')
    overlay = ['--model-kwargs', f"pretrained_cfg_overlay={{'file': '{tmp_path}/file.pth'}}"]
    network = create_network(
        'resnet20', 3, option='--model', pretrained=True,
        model_kwargs={'pretrained_cfg_overlay': {'file': f'{tmp_path}/file.pth'}})
    assert torch.equal(network.state_dict()['conv1.weight'], weights['conv1.weight'])
    script('train', [*options, '--model', 'resnet20', '--pretrained', *overlay, '--epochs', '1'])
    script('train', [*options, '--model', 'test_resnet', '--new-head', '--pretrained', '--initial-checkpoint', str(
        save_test_resnet(tmp_path)), '--epochs', '1'])


def save_test_resnet(folder):
    torch.save(timm.create_model('test_resnet').state_dict(), folder / 'other.pth')
    return folder / 'other.pth'


@pytest.mark.parametrize('method', ['bkd', 'feature', 'krdistill'])
def test_one_by_hand_teaches_and_learns(script, options, tmp_path, method):
    argv = [*options, '--teacher', 'ltkd_by_hand', '--student', 'ltkd_by_hand', '--kd', method, '--experiment', 'run']
    script('distill', argv)
    assert figures(tmp_path / 'run')['num_samples'] == 11
    state = torch.load(tmp_path / 'run/last/checkpoint-000001.pt', weights_only=True)['model']
    assert state['student.last.weight'].shape == (3, 6)


@pytest.mark.parametrize('words, message', [
    (['--model', 'resnet20', '--pretrained'], "no pretrained weights for 'resnet20' (timm knows none)"),
    (['--model', 'resnet20', '--pretrained', '--model-kwargs', "pretrained_cfg_overlay={'crop_pct': 1.}"],
     "no pretrained weights for 'resnet20' (timm knows none)"),
    (['--model', 'ltkd_by_hand_pair'], 'ByHand returns a tuple, not logits'),
    (['--model', 'resnet20', '--model-kwargs', 'features_only=True'], 'returns a list, not logits'),
])
def test_what_gives_no_logits_is_refused_before_anything_is_trained(script, options, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        script('train', [*options, *words])
    assert stopped.value.code == 2 and message in last_line(capsys)


def test_a_network_that_gives_no_features_is_refused_with_the_reason(script, options, capsys, monkeypatch):
    monkeypatch.setattr(ByHand, 'get_classifier', lambda self: None, raising=False)
    with pytest.raises(SystemExit) as stopped:
        script('distill', [*options, '--teacher', 'resnet20', '--student', 'ltkd_by_hand', '--kd', 'feature'])
    assert stopped.value.code == 2 and 'ByHand has no get_classifier' in last_line(capsys)


def test_dropout_and_transformers_on_both_sides(script, options, tmp_path):
    tiny = ['--model-kwargs', 'embed_dim=24', 'depth=2', 'num_heads=2', 'patch_size=4', '--drop', '0.2']
    script('train', [*options, '--model', 'deit_tiny_distilled_patch16_224', *tiny, '--experiment', 'teacher'])
    script('distill', [*options, '--student', 'deit_tiny_distilled_patch16_224', *tiny, '--kd', 'krdistill',
                       '--teacher-checkpoint', str(tmp_path / 'teacher'), '--experiment', 'run'])
    network = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    assert network.head_dist.weight.shape == (3, 24)
    assert figures(tmp_path / 'run')['num_samples'] == 11


def test_dropout_is_off_unless_asked_for(script, options, tmp_path, monkeypatch):
    """Also of the few networks that have it by default."""
    rates = []
    monkeypatch.setattr(
        'timm_ltkd.engine.seeds.fit.fit',
        lambda args, accelerator, data, network, *more, **options: rates.append(network.drop_rate))
    argv = [*options, '--model', 'ghostnet_050', '--img-size', '32']
    for more in ([], ['--drop', '0.3'], ['--model-kwargs', 'drop_rate=0.1']):
        with suppress(AttributeError):  # of what comes after the training
            script('train', [*argv, *more])
    assert rates == [0., 0.3, 0.1]


def test_weights_are_no_option_of_a_model(script, options, capsys):
    with pytest.raises(SystemExit):
        script('train', [*options, '--model', 'resnet20', '--model-kwargs', 'checkpoint_path=x.pth'])
    assert 'take --initial-checkpoint' in capsys.readouterr().err
