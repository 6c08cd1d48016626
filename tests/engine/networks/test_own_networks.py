"""Networks of the user's own, bare: what is found in them, and what is said where timm would load another."""
import json

import pytest
import timm
import torch
from safetensors.torch import load_file

BARE = '''
import torch, timm
from torch import nn

class Bare(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.hidden = nn.Linear(6, 8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.hidden(self.conv(x).mean((2, 3)))))

@timm.models.register_model
def bare(pretrained=False, **kwargs):
    kwargs = {key: value for key, value in kwargs.items() if key in ('num_classes',)}
    network = Bare(**kwargs)
    if CONFIG:
        network.pretrained_cfg = network.default_cfg = {'input_size': (3, 8, 8), 'mean': (.5,) * 3, 'std': (.5,) * 3}
    return network
'''


@pytest.fixture(params=[False, True], ids=['bare', 'with a configuration'])
def bare(request, own_module):
    own_module('my_bare', BARE.replace('CONFIG', str(request.param)))
    return ['--model', 'bare', '--import', 'my_bare']


def test_it_is_trained_exported_and_gets_another_head(bare, script, options, tmp_path, make_images, log):
    script('train', [*options, *bare, '--epochs', '1', '--experiment', 'first'])
    run = tmp_path / 'first'
    config = json.loads((run / 'config.json').read_text())
    assert config['architecture'] == 'bare' and config['num_classes'] == 3
    assert len([line for line in log if 'does not (its function does not load the weights): build it by' in line]) == 1
    four = make_images(tmp_path / 'four', *[dict(ant=4, bee=4, cat=4, dog=4)] * 2)
    trained = load_file(run / 'model.safetensors')
    for more in (['--new-head'], ['--stage', 'head']):
        script('train', [*options, *bare, '--data-dir', str(four), '--initial-checkpoint', str(run), *more, '--epochs',
                         '1', '--experiment', more[-1].strip('-'), '--lr', '1e-9', '--weight-decay', '0'])
        state = load_file(tmp_path / more[-1].strip('-') / 'model.safetensors')
        assert state['fc.weight'].shape == (4, 8)
        torch.testing.assert_close(state['hidden.weight'], trained['hidden.weight'], rtol=0., atol=1e-6)


def test_a_file_of_weights_tells_its_classes(bare, script, options, tmp_path):
    script('train', [*options, *bare, '--epochs', '1', '--experiment', 'first'])
    words = ['--student', 'resnet20', '--kd', 'krdistill', '--teacher', 'bare', '--import', 'my_bare']
    script('distill', [*options, *words, '--epochs', '1', '--experiment', 'second', '--teacher-checkpoint',
                       str(tmp_path / 'first/model.safetensors')])
    assert (tmp_path / 'second/report.json').is_file()


def test_ldam_and_scales_of_a_network_that_timm_knows_nothing_of(bare, script, options, tmp_path):
    script('train', [*options, *bare, '--epochs', '1', '--loss', 'ldam', '--experiment', 'ldam'])
    script('train', [*options, *bare, '--epochs', '1', '--stage', 'lws', '--initial-checkpoint', str(tmp_path / 'ldam'),
                     '--experiment', 'lws'])
    states = [load_file(tmp_path / name / 'model.safetensors') for name in ('ldam', 'lws')]
    assert states[0].keys() == states[1].keys() == timm.create_model('bare').state_dict().keys()
    assert torch.equal(states[0]['hidden.weight'], states[1]['hidden.weight'])
