"""The campaign of kills: a short one, a longer one with `-m slow`, and that it would see what it looks for."""
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='runs are forked off a process')
SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks/faults.py'


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    yield importlib.import_module('faults')
    sys.modules.pop('faults', None)


def kill(environment, *argv):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *argv], env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count('good') == int(argv[1])


@pytest.fixture(scope='module')
def environment():
    return os.environ | {
        'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': str(SCRIPT.parents[1]), 'MPLBACKEND': 'Agg',
        'ACCELERATE_USE_CPU': 'true', 'CUDA_VISIBLE_DEVICES': ''}


def test_a_few_kills(environment):
    kill(environment, '--kills', '2', '--seed', '1')


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2, 4))
def test_more_kills(environment, seed):
    kill(environment, '--kills', '12', '--seed', str(seed))


def write_one_of_each(folder):
    (folder / 'report.json').write_text(json.dumps({'a': list(range(100))}))
    (folder / 'args.yaml').write_text('a: [1, 2]\nb: {c: "d"}\n')
    (folder / 'summary.csv').write_text('epoch,loss\n0,1.5\n1,1.25\n')
    (folder / 'report.md').write_text('# Report\n')
    (folder / 'report.html').write_text('<html><body>x</body></html>\n')
    Image.effect_noise((32, 32), 50).save(folder / 'curves.png')
    torch.save({'x': torch.randn(1000)}, folder / 'checkpoint-000001.pt')
    save_file({'x': torch.randn(1000)}, folder / 'model.safetensors')


def test_a_file_that_is_not_whole_is_seen(faults, tmp_path):
    write_one_of_each(tmp_path)
    assert faults.not_whole(tmp_path) == []
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:len(content) * 2 // 3])
        assert [said.split(' (')[0] for said in faults.not_whole(tmp_path)] == [path.name]
        path.rename(tmp_path / f'.{path.name}.x.tmp{path.suffix}')
        assert faults.not_whole(tmp_path) == [], 'it never had its name'


def test_what_is_not_the_same_is_seen(faults, tmp_path):
    write_one_of_each(tmp_path)
    expected = faults.contents(tmp_path)
    (tmp_path / 'report.json').write_text('{}')  # holds times
    torch.save({'x': torch.load(tmp_path / 'checkpoint-000001.pt')['x']}, tmp_path / 'checkpoint-000001.pt')
    assert faults.difference(expected, faults.contents(tmp_path)) == ''
    torch.save({'x': torch.randn(1000)}, tmp_path / 'checkpoint-000001.pt')
    (tmp_path / '.report.json.x.tmp.json').write_text('')
    (tmp_path / 'curves.png').unlink()
    found = faults.difference(expected, faults.contents(tmp_path)).split(', ')
    assert found == ['.report.json.x.tmp.json', 'curves.png', 'checkpoint-000001.pt']
