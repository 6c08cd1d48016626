"""Finished runs for others: folders that plain timm loads, and nothing in them that tells of the machine."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image

from timm_ltkd.cli import run
from timm_ltkd.engine.sharing import share
from timm_ltkd.errors import UserError


@pytest.fixture(scope='module')
def shared_options(images):
    return [
        '--dataset', 'lt/', '--data-dir', str(images), '--img-size', '8', '--workers', '0', '--epochs', '1', '-b', '4',
        '--warmup-epochs', '0', '--train-crop-mode', 'pad', '--crop-padding', '1']


@pytest.fixture(scope='module')
def finished(shared_options, tmp_path_factory):
    """A student of timm's own and its teacher, with all its figures."""
    out = tmp_path_factory.mktemp('secret-place')
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet20', num_classes=3).state_dict(), out / 'secret-teacher.pt')
    run.distill([*shared_options, '--student', 'test_resnet', '--teacher', 'resnet20', '--teacher-checkpoint',
                 str(out / 'secret-teacher.pt'), '--class-map', str(_class_map(out)), '--license', 'cc-by-4.0',
                 '--output', str(out), '--experiment', 'run'])
    return out / 'run'


def _class_map(folder):
    (folder / 'secret-map.txt').write_text('ant\nbee\ncat\n')
    return folder / 'secret-map.txt'


@pytest.fixture
def exported(finished, tmp_path):
    run.export([str(finished), '--export-dir', str(tmp_path / 'there')])
    return tmp_path / 'there'


def logits(network):
    with torch.no_grad():
        return network.eval()(torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8))


def test_every_run_has_a_card(finished):
    card = ModelCard.load(finished / 'README.md')
    assert card.data.license == 'cc-by-4.0' and card.data.library_name == 'timm'
    report = json.loads((finished / 'report.json').read_text())
    figures = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert figures['top-1 accuracy'] == round(report['student']['top1'], 2)
    assert 'test_resnet distilled from resnet20 by bkd on long-tailed' in card.text
    assert 'Zhang et al. 2021, arXiv 2104.10510' in card.text
    assert 'page: https://huggingface.co/timm/test_resnet.r160_in1k' in card.text
    assert all(f'{option} …' in card.text for option in ('--data-dir', '--class-map', '--teacher-checkpoint'))
    assert json.loads((finished / 'config.json').read_text())['pretrained_cfg']['license'] == 'cc-by-4.0'


def test_no_path_leaks(finished, exported, images):
    assert 'secret' in (finished / 'args.yaml').read_text() and 'secret' in (finished / 'report.json').read_text()
    assert not {'last', 'report.html', 'report.md'} & {path.name for path in exported.iterdir()}
    assert {path.name for path in finished.glob('*.png')} == {path.name for path in exported.glob('*.png')} != set()
    for folder, names in ((finished, ['README.md']), (exported, os.listdir(exported))):
        for name in names:
            content = (folder / name).read_bytes()
            for private in (b'secret', str(images).encode(), str(finished.parent).encode(), os.getcwd().encode()):
                assert private not in content, (name, private)
    options = yaml.safe_load((exported / 'args.yaml').read_text())
    assert options['student'] == 'test_resnet' and 'data_dir' not in options and 'class_map' not in options
    report = json.loads((exported / 'report.json').read_text())
    assert report['student'] == json.loads((finished / 'report.json').read_text())['student']


def test_plain_timm_loads_it(finished, exported, tmp_path):
    """In a process that has never heard of this package."""
    code = (
        "import sys, timm, torch; torch.set_num_threads(1);"  # as here, so that it rounds alike
        "network = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval();"
        "torch.save((network(torch.linspace(-1, 1, 384).view(2, 3, 8, 8)), network.pretrained_cfg['label_names']),"
        "sys.argv[2]); assert 'timm_ltkd' not in sys.modules")
    subprocess.run([sys.executable, '-c', code, str(exported), str(tmp_path / 'out.pt')], check=True, cwd=tmp_path)
    found, names = torch.load(tmp_path / 'out.pt', weights_only=True)
    assert torch.equal(found, logits(timm.create_model(f'local-dir:{finished}', pretrained=True)))
    assert list(names) == ['ant', 'bee', 'cat']


def test_the_cards_code_runs(exported, tmp_path, monkeypatch, capsys):
    code = re.search(r'```python\n(.*?)```', (exported / 'README.md').read_text(encoding='utf-8'), re.S).group(1)
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (9, 9), 'red').save('image.png')
    exec(compile(code.replace('FOLDER', str(exported)), 'card', 'exec'), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {name for name, _ in rows} == {'ant', 'bee', 'cat'} and sum(float(p) for _, p in rows) == pytest.approx(1)


def test_from_the_hubs_cache(exported, tmp_path, monkeypatch):
    """timm's way to the hub, offline, with the client's own folders laid out by hand."""
    root = tmp_path / 'cache' / 'models--me--net'
    commit = '0' * 40
    (root / 'refs').mkdir(parents=True)
    (root / 'refs/main').write_text(commit)
    (root / 'blobs').mkdir()
    (root / 'snapshots' / commit).mkdir(parents=True)
    for path in exported.iterdir():
        blob = root / 'blobs' / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        (root / 'snapshots' / commit / path.name).symlink_to(blob)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    network = timm.create_model('hf-hub:me/net', pretrained=True, cache_dir=str(tmp_path / 'cache'))
    assert torch.equal(logits(network), logits(timm.create_model(f'local-dir:{exported}', pretrained=True)))
    assert list(network.pretrained_cfg['label_names']) == ['ant', 'bee', 'cat']


def test_a_card_that_was_edited_stays(finished, tmp_path):
    folder = tmp_path / 'mine'
    shutil.copytree(finished, folder)
    text = (folder / 'README.md').read_text(encoding='utf-8') + '\nA word of mine: local-dir:FOLDER\n'
    (folder / 'README.md').write_text(text, encoding='utf-8')
    files = share.shared_files(folder, license='mit', repo='me/net')
    shared = files['README.md'].decode()
    assert 'A word of mine: hf-hub:me/net' in shared and "'hf-hub:me/net', pretrained=True" in shared
    assert ModelCard(shared).data.license == 'mit' and 'FOLDER' not in shared
    assert json.loads(files['config.json'])['pretrained_cfg']['license'] == 'mit'
    (folder / 'README.md').unlink()
    assert b'A word' not in share.shared_files(folder)['README.md']
    (folder / 'README.md').write_text('---\n- no mapping\n---\ntext')
    with pytest.raises(UserError, match='README.md: the lines between --- are no metadata'):
        share.shared_files(folder, license='mit')


@pytest.mark.parametrize('spoil, message', [
    (lambda folder: (folder / 'report.json').write_text('{'), 'not those of a finished run'),
    (lambda folder: (folder / 'args.yaml').write_text('a: !!python/name:os.system'), 'args.yaml line 1: not valid'),
    (lambda folder: (folder / 'args.yaml').write_text('- 1'), 'not those of a finished run'),
    (lambda folder: (folder / 'config.json').unlink(), 'no finished run'),
    (lambda folder: (folder / 'model.safetensors').unlink(), 'no finished run'),
])
def test_a_folder_that_is_not_whole(finished, tmp_path, capsys, spoil, message):
    folder = tmp_path / 'spoiled'
    shutil.copytree(finished, folder)
    spoil(folder)
    with pytest.raises(SystemExit) as stopped:
        run.export([str(folder), '--export-dir', str(tmp_path / 'there')])
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and message in error[0]
    assert not (tmp_path / 'there').exists()


def test_a_file_of_weights(tmp_path, log):
    torch.manual_seed(0)
    network = timm.create_model('resnet20', num_classes=4).eval()
    torch.save(network.state_dict(), tmp_path / 'net.pth')
    run.export([str(tmp_path / 'net.pth'), '--model', 'resnet20', '--export-dir', str(tmp_path / 'there'), '--img-size',
                '16', '--mean', '0.5', '--std', '0.25', '--license', 'mit'])
    loaded = timm.create_model(f'local-dir:{tmp_path / "there"}', pretrained=True)
    assert torch.equal(logits(loaded), logits(network))
    assert list(loaded.pretrained_cfg['input_size']) == [3, 16, 16]
    assert set(loaded.pretrained_cfg['mean']) == {0.5} and set(loaded.pretrained_cfg['std']) == {0.25}
    assert sorted(os.listdir(tmp_path / 'there')) == ['README.md', 'config.json', 'model.safetensors']
    card = ModelCard.load(tmp_path / 'there/README.md')
    assert card.data.license == 'mit' and 'import timm_ltkd' in card.text and card.data.eval_results is None
    assert str(tmp_path) not in str(card)
    assert any(line.startswith(f'in {tmp_path / "there"}: README.md, ') for line in log)
