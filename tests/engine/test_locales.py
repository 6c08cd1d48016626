"""Runs where the language or its characters are not those of the programmer."""
import json
import shutil
import subprocess

import pytest
from PIL import Image

CLASSES = {'Ameise ä': 10, 'kuş ığ': 5, '猫': 3}
PLAIN = {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}  # nothing but ASCII


@pytest.fixture
def argv(tmp_path):
    """A run on classes with such names, to a folder with such a name."""
    for split in ('train', 'val'):
        for label, (name, size) in enumerate(CLASSES.items()):
            folder = tmp_path / 'Bilder ö' / split / name
            folder.mkdir(parents=True)
            for i in range(size if split == 'train' else 2):
                Image.new('RGB', (8, 8), (80 * label, i, 0)).save(folder / f'{i}.png')
    return [
        '--dataset', '', '--data-dir', str(tmp_path / 'Bilder ö'), '--img-size', '8', '--workers', '0', '--epochs', '2',
        '-b', '4', '--warmup-epochs', '0', '--model', 'resnet20', '--output', str(tmp_path / 'Läufe'), '--experiment',
        'Größe']


def run(start, argv, **env):
    process = start('train.py', argv, **env)
    with process:
        said = process.stdout.buffer.read().decode('utf-8', 'replace')
    assert process.returncode == 0, said
    return said


def assert_good(folder):
    report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
    assert report['data']['class_names'] == list(CLASSES)
    rows = (folder / 'per_class.csv').read_text(encoding='utf-8').splitlines()
    assert [row.split(',')[1] for row in rows[1:]] == list(CLASSES)
    assert '0.' in (folder / 'summary.csv').read_text(), 'and no decimal comma'
    return (folder / 'model.safetensors').read_bytes()


def test_nothing_but_ascii(start, argv, tmp_path):
    folder = tmp_path / 'Läufe/Größe'
    run(start, argv, **PLAIN)
    weights = assert_good(folder)
    assert 'resuming' in run(start, [*argv, '--resume', 'auto'], **PLAIN)
    assert assert_good(folder) == weights


@pytest.mark.slow
@pytest.mark.parametrize('name, charset', [
    ('de_DE', 'ISO-8859-1'), ('tr_TR', 'ISO-8859-9'), ('tr_TR', 'UTF-8')])
def test_locales(start, argv, tmp_path, name, charset):
    if shutil.which('localedef') is None:
        pytest.skip('localedef is not installed')
    made = subprocess.run(
        ['localedef', '-i', name, '-f', charset, str(tmp_path / f'{name}.{charset}')], capture_output=True, text=True)
    if not (tmp_path / f'{name}.{charset}').is_dir():
        pytest.skip(f'the locale cannot be made: {made.stderr[-200:]}')
    run(start, argv, LC_ALL=f'{name}.{charset}', LOCPATH=str(tmp_path))
    here = assert_good(tmp_path / 'Läufe/Größe')
    run(start, [*argv, '--overwrite'], LC_ALL='C.utf8')
    assert assert_good(tmp_path / 'Läufe/Größe') == here, 'and the run is the same'
