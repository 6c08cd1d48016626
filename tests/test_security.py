"""Files of strangers: nothing in them is run or leaves its folder, and their names do nothing to who reads them."""
import ast
import csv
import io
import logging
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm.data.readers.reader_image_in_tar as tar_reader
from PIL import EpsImagePlugin, Image

import timm_ltkd
from timm_ltkd.cli import run
from timm_ltkd.data.reading import read_image
from timm_ltkd.engine.processes.launch import set_up_logging
from timm_ltkd.errors import UserError, visible
from timm_ltkd.report.summary import write_csv

PACKAGE = Path(timm_ltkd.__file__).parent
GIGABYTES = 2 ** 30


class Payload:
    """Makes a folder when a careless reader unpickles it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def png():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, 'PNG')
    return file.getvalue()


def write_tar(path, names):
    with tarfile.open(path, 'w') as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(png())
            archive.addfile(member, io.BytesIO(png()))
    return path


@pytest.fixture
def touched(tmp_path):
    return tmp_path / 'touched'


# --- code

FORBIDDEN = {'eval', 'exec', 'compile', '__import__'}
UNSAFE = {'weights_only': False, 'allow_pickle': True, 'trust_remote_code': True}


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_call_in_the_package_runs_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: getattr(keyword.value, 'value', None) for keyword in node.keywords}
        assert called not in FORBIDDEN, called
        assert called not in ('pickle.load', 'pickle.loads', 'yaml.unsafe_load', 'os.system'), called
        assert not any(given.get(name) is value for name, value in UNSAFE.items()), ast.unparse(node)
        if called == 'torch.load':
            assert given.get('weights_only') is True
        if called == 'yaml.load':
            assert ast.unparse(node.args[1]) == '_Loader'  # of plain_yaml
        assert given.get('shell') is not True


def test_a_pickled_class_map_with_code(tmp_path, touched):
    (tmp_path / 'map.pkl').write_bytes(pickle.dumps({'ant': Payload(touched)}))
    (tmp_path / 'train' / 'ant').mkdir(parents=True)
    (tmp_path / 'train' / 'ant' / '0.png').write_bytes(png())
    with pytest.raises(UserError, match='not safe to load'):
        timm_ltkd.create_dataset('folder', tmp_path, class_map=tmp_path / 'map.pkl')
    assert not touched.exists()
    (tmp_path / 'map.pkl').write_bytes(pickle.dumps({'ant': 0}))
    assert timm_ltkd.create_dataset('folder', tmp_path, class_map=tmp_path / 'map.pkl').class_names == ['ant']
    for content in (b'', b'no pickle', pickle.dumps([1])):
        (tmp_path / 'map.pkl').write_bytes(content)
        with pytest.raises(UserError, match='cannot read the class map'):
            timm_ltkd.create_dataset('folder', tmp_path, class_map=tmp_path / 'map.pkl')


def test_a_pickled_list_of_images_beside_a_large_tar_file_is_neither_read_nor_written(tmp_path, touched, monkeypatch):
    write_tar(tmp_path / 'train.tar', ['ant/0.png', 'bee/0.png'])
    monkeypatch.setattr(tar_reader.os.path, 'getsize', lambda path: 11 * GIGABYTES)  # from where on timm has one
    assert len(timm_ltkd.create_dataset('folder', tmp_path)) == 2
    assert os.listdir(tmp_path) == ['train.tar']
    (tmp_path / '_train_tarinfos.pickle').write_bytes(pickle.dumps(Payload(touched)))
    assert len(timm_ltkd.create_dataset('folder', tmp_path)) == 2 and not touched.exists()


def test_a_dataset_with_a_loading_script(tmp_path, touched, monkeypatch):
    monkeypatch.setattr('builtins.input', lambda *_: 'n')
    monkeypatch.setenv('HF_DATASETS_TRUST_REMOTE_CODE', '0')
    folder = tmp_path / 'script'
    folder.mkdir()
    (folder / 'script.py').write_text(f'import os, datasets\nos.mkdir({str(touched)!r})\n')
    with pytest.raises(UserError):
        timm_ltkd.create_dataset(f'hfds/{folder}', split='train')
    assert not touched.exists()


def test_postscript_is_not_handed_to_a_program(tmp_path, monkeypatch):
    def started(*_, **__):
        raise AssertionError('PostScript was run')
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', started)
    Image.new('RGB', (8, 8)).save(tmp_path / 'image.eps')
    (tmp_path / 'image.jpg').write_bytes((tmp_path / 'image.eps').read_bytes())
    with pytest.raises(UserError, match='PostScript'):
        read_image(str(tmp_path / 'image.jpg'), 'RGB')


# --- folders

@pytest.mark.parametrize('name', ['../../ant/0.png', '/ant/0.png', 'ant/../../0.png'])
def test_a_tar_file_that_leads_out_of_its_folder(tmp_path, name):
    write_tar(tmp_path / 'train.tar', ['bee/0.png', name])
    with pytest.raises(UserError, match='leads out of its folder'):
        timm_ltkd.create_dataset('folder', tmp_path)


def test_links_in_a_tar_file_are_no_images(tmp_path):
    write_tar(tmp_path / 'train.tar', ['bee/0.png'])
    with tarfile.open(tmp_path / 'train.tar', 'a') as archive:
        link = tarfile.TarInfo('bee/1.png')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    assert len(timm_ltkd.create_dataset('folder', tmp_path)) == 1


# --- names

@pytest.mark.parametrize('name, shown', [
    ('=cmd|"/c calc"!A0', "'=cmd|\"/c calc\"!A0"), ('+1+1', "'+1+1"), ('-2+3', "'-2+3"), ('@SUM(A1)', "'@SUM(A1)"),
    ('\t=1', "'\t=1"), ('-1', '-1'), ('+1.5', '+1.5'), ('-1e3', '-1e3'), ('cat', 'cat'), ('a=b', 'a=b')])
def test_no_formulas_in_tables(tmp_path, name, shown):
    write_csv(tmp_path / 'table.csv', ['class', 'figure'], [[name, -1.5]])
    with open(tmp_path / 'table.csv', newline='') as file:
        assert list(csv.reader(file))[1] == [shown, '-1.5']


@pytest.mark.parametrize('text', ['\x1b[2J\x1b[31mgone', 'a\rb', 'a\x07b', '\u202egnp.exe', '\udcff', 'a\nb'])
def test_names_do_nothing_to_a_terminal(text, capfd):
    assert visible(text).isprintable()
    logger = logging.getLogger('timm_ltkd')
    handlers, logger.handlers = logger.handlers, []
    try:
        set_up_logging(True)
        logger.info(f'class {text}')
    finally:
        logger.handlers = handlers
    with pytest.raises(SystemExit):
        run.train(['--dataset', text])
    said = capfd.readouterr().err
    assert 'class ' in said and 'unknown dataset' in said
    assert all(char == '\n' or char.isprintable() for char in said)


def test_ordinary_names_are_shown_as_they_are():
    assert visible('Ameise, 蚂蚁, μυρμήγκι 🐜') == 'Ameise, 蚂蚁, μυρμήγκι 🐜'
    assert visible('a' * 3000, most=300) == 'a' * 200 + ' … ' + 'a' * 100
