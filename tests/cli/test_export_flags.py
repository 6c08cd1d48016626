"""Every option of python -m timm_ltkd.export changes what it says, and what makes no sense is told in one line."""
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from timm.models import _registry

from timm_ltkd.cli import run
from timm_ltkd.cli.arguments import export_parser
from timm_ltkd.engine import export as engine_export

COVERED = {'help', 'checkpoint'}
ROOT = Path(__file__).resolve().parents[2]


def covers(*options):
    """Say which options a test is about."""
    COVERED.update(export_parser()._option_string_actions[option].dest for option in options)
    return lambda test: test


def fails(capsys, argv):
    """The one line with which the command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run.export([str(word) for word in argv])
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'net.pt'
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet20', num_classes=3).state_dict(), path)
    return path


@pytest.fixture
def export(weights, tmp_path):
    """A function: export the weights with more options; what config.json says then, and the card."""
    def call(*words):
        folder = tmp_path / f'{len(list(tmp_path.iterdir()))}'
        run.export([str(weights), '--model', 'resnet20', '--export-dir', str(folder), *words])
        return json.loads((folder / 'config.json').read_text()), ModelCard.load(folder / 'README.md')
    return call


@covers('--model', '--export-dir', '--license')
def test_a_file_of_weights(export, weights, tmp_path, capsys):
    config, card = export()
    assert config['architecture'] == 'resnet20' and config['num_classes'] == 3 and card.data.license is None
    assert export('--license', 'mit')[1].data.license == 'mit'
    assert 'say of which network with --model' in fails(capsys, [weights, '--export-dir', tmp_path / 'new'])


@covers('--model-kwargs')
def test_options_of_the_network(export, weights, tmp_path, capsys):
    config, _ = export('--model-kwargs', 'drop_rate=0.25')
    assert config['model_args']['drop_rate'] == 0.25
    told = fails(capsys, [tmp_path / '0', '--export-dir', tmp_path / 'new', '--model-kwargs', 'drop_rate=0.25'])
    assert 'says how its network is made; leave --model-kwargs out' in told


@covers('--img-size', '--mean', '--std', '--interpolation', '--crop-pct')
@pytest.mark.parametrize('words, key, value', [
    (['--img-size', '16'], 'input_size', [3, 16, 16]), (['--mean', '0.5'], 'mean', [0.5] * 3),
    (['--std', '0.1', '0.2', '0.3'], 'std', [0.1, 0.2, 0.3]), (['--crop-pct', '0.5'], 'crop_pct', 0.5),
    (['--interpolation', 'bicubic'], 'interpolation', 'bicubic')])
def test_the_input(export, capsys, words, key, value, tmp_path):
    config, _ = export(*words)
    plain, _ = export()
    assert config['pretrained_cfg'][key] == value != plain['pretrained_cfg'][key]
    folder = tmp_path / '0'
    assert f'{words[0]}: the config.json in {folder} says' in fails(capsys, [folder, '--export-dir', 'new', *words])


@covers('--pretrained')
def test_the_weights_that_timm_knows(tmp_path, monkeypatch, capsys):
    torch.manual_seed(1)
    torch.save(timm.create_model('test_resnet', num_classes=5).state_dict(), tmp_path / 'zoo.pt')
    cfg = timm.get_pretrained_cfg('test_resnet')
    cfg.file, cfg.hf_hub_id, cfg.num_classes = str(tmp_path / 'zoo.pt'), None, 5
    for name in ('test_resnet', 'test_resnet.r160_in1k'):
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, cfg)
    argv = ['--model', 'test_resnet', '--export-dir', str(tmp_path / 'there')]
    assert 'name a checkpoint' in fails(capsys, argv)
    run.export([*argv, '--pretrained'])
    found = timm.create_model(f'local-dir:{tmp_path / "there"}', pretrained=True).state_dict()
    assert all(torch.equal(value, found[key]) for key, value in torch.load(tmp_path / 'zoo.pt').items())


@covers('--import')
def test_a_network_of_ones_own(tmp_path, own_module, capsys):
    own_module('my_own_network', '''
import timm

@timm.models.register_model
def my_network(pretrained=False, **kwargs):
    return timm.create_model('resnet20', **kwargs)
''')
    torch.save(timm.create_model('resnet20', num_classes=3).state_dict(), tmp_path / 'net.pt')
    argv = ['net.pt', '--model', 'my_network', '--export-dir', 'there']
    assert "unknown model 'my_network'" in fails(capsys, argv)
    run.export([*argv, '--import', 'my_own_network'])
    assert (tmp_path / 'there/config.json').is_file()


@covers('--push-to-hub', '--hub-private')
def test_push_to_hub(weights, monkeypatch):
    """What is pushed, and what the hub says, is in tests/engine/sharing/test_hub.py."""
    pushed = []
    monkeypatch.setattr(engine_export, 'push_folder', lambda folder, *how, **more: pushed.append((*how, more)))
    for words in (['--push-to-hub'], ['--push-to-hub', 'me/x', '--hub-private', '--license', 'mit']):
        run.export([str(weights), '--model', 'resnet20', *words])
    assert pushed == [
        ('auto', False, {'license': None, 'name': 'net'}), ('me/x', True, {'license': 'mit', 'name': 'net'})]


@covers('--logit-adjust', '--tau-norm')
def test_fixes(weights, capsys):
    """What they change is in tests/engine/sharing/test_export_fixed.py."""
    for fix in ('--logit-adjust', '--tau-norm'):  # there is nothing to choose a value on
        assert f"argument {fix}: invalid float value: 'sweep'" in fails(capsys, [weights, fix, 'sweep'])


@covers('--onnx', '--with-normalisation', '--opset')
def test_onnx(weights, tmp_path, monkeypatch, log):
    """What is in the file is in tests/engine/sharing/test_onnx_export.py."""
    made = []

    def write(network, path, **how):
        made.append((path, how['input_size'], how['with_normalisation'], how['opset']))
        return engine_export.OnnxFile(18, 3_000_000, 1e-6, 12.5, ('batch', 3, 16, 16))
    monkeypatch.setattr(engine_export, 'export_onnx', write)
    argv = [str(weights), '--model', 'resnet20', '--onnx', str(tmp_path / 'net.onnx')]
    run.export(argv)
    run.export([*argv, '--with-normalisation', '--opset', '18', '--img-size', '16'])
    assert made == [(tmp_path / 'net.onnx', (3, 32, 32), False, None), (tmp_path / 'net.onnx', (3, 16, 16), True, 18)]
    assert log[-1] == (f'{tmp_path / "net.onnx"}: opset 18, 3.00 MB, input batch×3×16×16 of pixels from 0 to 1, '
                       'largest deviation from torch 1.0e-06 in logits of up to 12')


@pytest.mark.parametrize('words, message', [
    ([], 'say what to write: --export-dir DIR, --push-to-hub REPO, --onnx FILE'),
    (['--hub-private', '--onnx', 'x.onnx'], '--hub-private goes with --push-to-hub'),
    (['--license', 'mit', '--onnx', 'x.onnx'], '--license goes with --export-dir or --push-to-hub'),
    (['--with-normalisation', '--export-dir', 'new'], '--with-normalisation goes with --onnx'),
    (['--opset', '18', '--export-dir', 'new'], '--opset goes with --onnx'),
    (['--onnx', 'no/where/x.onnx'], '--onnx no/where/x.onnx: name a file in a folder that is there'),
    (['--export-dir', 'full'], '--export-dir full holds files; name a new folder, or an empty one'),
    (['--export-dir', 'full/file'], '--export-dir full/file is a file; name a folder'),
    (['--exprot-dir', 'new'], "unknown option '--exprot-dir'; did you mean '--export-dir'?"),
    (['--export-dir', 'new', '--license', 'My Own'], "'My Own' is no license of the hub"),
])
def test_what_makes_no_sense(weights, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').touch()
    assert message in fails(capsys, [weights, '--model', 'resnet20', *words])
    assert not (tmp_path / 'new').exists() and not list(tmp_path.glob('*.onnx'))


@pytest.mark.parametrize('fix', [[], ['--tau-norm', '1']])
def test_images_that_the_network_does_not_take(tmp_path, capsys, fix):
    torch.save(timm.create_model('test_vit', num_classes=3).state_dict(), tmp_path / 'vit.pt')
    argv = [tmp_path / 'vit.pt', '--model', 'test_vit', '--img-size', '9', '--export-dir', tmp_path / 'new', *fix]
    assert 'takes no images of 9x9 pixels' in fails(capsys, argv) and not (tmp_path / 'new').exists()


@pytest.mark.parametrize('page', ['README.md', 'docs/sharing.md'])
def test_the_commands_of_the_docs(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    commands = re.findall(r'^python -m timm_ltkd\.export ([^#\n]*)|`python -m timm_ltkd\.export ([^`]*)`', text, re.M)
    assert commands
    for words in commands:
        args = export_parser().parse_args(shlex.split(''.join(words)))
        assert args.checkpoint and (args.export_dir or args.push_to_hub or args.onnx)


def test_it_is_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['export', '--help'])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module('timm_ltkd.export', run_name='__main__')
    assert not stopped.value.code and '--export-dir DIR' in capsys.readouterr().out


def test_every_option_is_covered():
    assert {action.dest for action in export_parser()._actions} == COVERED
