"""Predictions for a user's own images: the right classes and probabilities of every file, and nothing else needed."""
import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from timm_ltkd.data import create_eval_transform, create_image_loader, find_images
from timm_ltkd.engine import predict as engine_predict
from timm_ltkd.engine import run_data
from timm_ltkd.engine.networks.described import label_names
from timm_ltkd.engine.networks.trained import load_network
from timm_ltkd.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ['ant', 'bee', 'cat']
PIXELS = dict(input_size=(3, 8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop_pct=1., interpolation='bilinear')


@pytest.fixture(scope='module')
def trained(train_once):
    """The folder of a run on three classes, its normalisation not the usual one."""
    return train_once(
        'resnet20', '--epochs', '2', '--lr', '0.002', '--crop-pct', '1', '--mean', '0.4', '0.5', '0.6', '--std', '0.2',
        '0.25', '0.3', '--interpolation', 'bilinear')


@pytest.fixture
def pictures(tmp_path):
    """Files of all kinds in a folder of a user."""
    folder = tmp_path / 'my pictures'
    rng = np.random.RandomState(3)
    for name in ('b/x, y.PNG', 'b/10.png', 'b/é à/ü.jpg', 'a.png', '.hidden.png', '.cache/z.png', 'B.png'):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(0, 256, (13, 9, 3), dtype=np.uint8)).save(path)
    (folder / 'notes.txt').write_text('no image')
    return folder


SHOWN = ['B.png', 'a.png', 'b/10.png', 'b/x, y.PNG', 'b/é à/ü.jpg']


@pytest.fixture
def predict(script, capsys):
    """Call validate.py --predict; the rows that it prints, by column."""
    def call(*argv):
        capsys.readouterr()
        script('validate', [*map(str, argv), '--workers', '0'])
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    return call


@pytest.fixture
def fails(script, capsys):
    """Call validate.py with a mistake; what it says."""
    def call(*argv):
        with pytest.raises(SystemExit) as stopped:
            script('validate', [str(word) for word in argv])
        assert stopped.value.code == 2
        return capsys.readouterr().err
    return call


def by_hand(folder, files, batch=1):
    """Probabilities `[N, C]` as a user of timm would get them; in batches and the memory layout of the scripts,
    since others are convolved by other kernels."""
    network = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(file).convert('RGB')) for file in files])
        parts = [part.contiguous(memory_format=torch.channels_last) for part in pixels.split(batch)]
        return torch.cat([network.to(memory_format=torch.channels_last)(part).softmax(1) for part in parts])


def test_every_image_has_the_probabilities_that_timm_gives(trained, pictures, predict):
    rows = predict(trained, '--predict', pictures, '-b', '2')
    assert [row['file'] for row in rows] == SHOWN
    expected = by_hand(trained, [pictures / name for name in SHOWN], batch=2)
    for row, probabilities in zip(rows, expected, strict=True):
        order = probabilities.argsort(descending=True).tolist()
        assert [row[f'class_{k}'] for k in (1, 2, 3)] == [NAMES[c] for c in order]
        for k, c in enumerate(order, start=1):
            assert float(row[f'prob_{k}']) == pytest.approx(float(probabilities[c]), abs=1e-6)
            assert row[f'prob_{k}'] == str(np.float32(row[f'prob_{k}'])), 'as short as float32 is'
        assert (row['class'], row['probability']) == (row['class_1'], row['prob_1'])
    assert list(rows[0]) == [
        'file', 'class', 'probability', 'class_1', 'prob_1', 'class_2', 'prob_2', 'class_3', 'prob_3']


def test_they_are_what_the_run_was_measured_by(trained, images, predict):
    rows = predict(trained, '--predict', images / 'val')
    right = [row['file'].split('/')[0] == row['class'] for row in rows]
    assert len(rows) == 11
    assert json.loads((trained / 'report.json').read_text())['student']['top1'] == pytest.approx(100 * sum(right) / 11)


def test_no_data_set_is_touched(trained, pictures, predict, monkeypatch, tmp_path):
    shutil.copytree(trained, tmp_path / 'alone')
    (tmp_path / 'alone/args.yaml').write_text('data_dir: /nowhere')
    monkeypatch.setattr(run_data, 'create_splits', None)
    assert len(predict(tmp_path / 'alone', '--predict', pictures)) == 5


def test_one_file_and_fewer_classes(trained, pictures, predict):
    (row,) = predict(trained, '--predict', pictures / 'a.png', '--topk', '1')
    assert list(row) == ['file', 'class', 'probability', 'class_1', 'prob_1']
    assert row['file'] == str(pictures / 'a.png')
    whole = predict(trained, '--predict', pictures)[1]
    assert whole['class'] == row['class'] and float(whole['probability']) == pytest.approx(float(row['probability']))


def test_into_a_file(trained, pictures, predict, tmp_path, capsys):
    printed = predict(trained, '--predict', pictures)
    assert predict(trained, '--predict', pictures, '--predictions-file', tmp_path / 'p.csv') == []
    with open(tmp_path / 'p.csv', encoding='utf-8', newline='') as f:
        assert list(csv.DictReader(f)) == printed


def test_a_broken_image_is_named_and_the_others_go_on(trained, pictures, script, capsys, log):
    whole = (pictures / 'a.png').read_bytes()
    (pictures / 'b/cut.png').write_bytes(whole[:len(whole) // 2])
    (pictures / 'b/empty.jpg').write_bytes(b'')
    with pytest.raises(SystemExit) as stopped:
        script('validate', [str(trained), '--predict', str(pictures), '-b', '2'])
    assert stopped.value.code == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row['file'] for row in rows] == SHOWN
    messages = [line for line in log if 'cannot read image' in line]
    assert len(messages) == 2
    assert str(pictures / 'b/cut.png') in messages[0] and str(pictures / 'b/empty.jpg') in messages[1]


def test_nothing_but_broken_images(trained, tmp_path, script, capsys):
    (tmp_path / 'x.png').write_bytes(b'nonsense')
    with pytest.raises(SystemExit) as stopped:
        script('validate', [str(trained), '--predict', str(tmp_path / 'x.png')])
    assert stopped.value.code == 1
    assert capsys.readouterr().out.splitlines() == [
        'file,class,probability,class_1,prob_1,class_2,prob_2,class_3,prob_3']


def test_a_file_of_weights_has_class_indices(pictures, predict, tmp_path):
    network = timm.create_model('resnet20', num_classes=7)
    save_file(network.state_dict(), tmp_path / 'weights.safetensors')
    rows = predict(tmp_path / 'weights.safetensors', '--model', 'resnet20', '--predict', pictures, '--topk', '9')
    assert {row[f'class_{k}'] for row in rows for k in range(1, 8)} == set('0123456')
    assert 'class_8' not in rows[0]


def test_a_file_of_weights_of_a_network_with_options(trained, pictures, predict, fails, tmp_path):
    network = timm.create_model('resnet20', num_classes=7, in_chans=1)
    save_file(network.state_dict(), tmp_path / 'weights.safetensors')
    options = ['--model-kwargs', 'in_chans=1', '--predict', pictures, '--topk', '9', '--mean', '0.5', '--std', '0.5']
    assert 'class_7' in predict(tmp_path / 'weights.safetensors', '--model', 'resnet20', *options)[0]
    assert 'says how its network is made; leave --model-kwargs out' in fails(trained, *options)


def test_a_file_of_weights_beside_a_config_has_its_names(trained, pictures, predict, tmp_path):
    weights = trained / 'model.safetensors'
    rows = predict(weights, '--model', 'resnet20', '--predict', pictures)
    assert rows == predict(trained, '--predict', pictures)
    shutil.copy(trained / 'config.json', tmp_path)  # of another architecture
    torch.save(timm.create_model('resnet32', num_classes=3).state_dict(), tmp_path / 'net.pt')
    assert label_names(load_network(str(tmp_path / 'net.pt'), 'resnet32', None, 'checkpoint')) is None


def test_names_of_the_hub_and_names_that_do_not_fit():
    network = timm.create_model('resnet20', num_classes=2)
    network.pretrained_cfg['label_names'] = ('no', 'yes')
    network.config_json = None
    assert label_names(network) == ['no', 'yes']
    network.num_classes = 3
    assert label_names(network) is None


def test_a_network_for_grey_images(pictures, predict, tmp_path):
    network = timm.create_model('resnet20', num_classes=2, in_chans=1)
    folder = tmp_path / 'grey'
    folder.mkdir()
    save_file(network.state_dict(), folder / 'model.safetensors')
    cfg = PIXELS | dict(input_size=(1, 8, 8), mean=(0.5,), std=(0.5,))
    (folder / 'config.json').write_text(json.dumps({
        'architecture': 'resnet20', 'num_classes': 2, 'model_args': {'in_chans': 1}, 'pretrained_cfg': cfg,
        'label_names': ['no', 'yes']}))
    rows = predict(folder, '--predict', pictures)
    assert len(rows) == 5 and {row['class'] for row in rows} <= {'no', 'yes'}


def test_images_for_a_grey_network_are_made_as_those_it_is_measured_on(tmp_path):
    """Resized in colour, and grey after that."""
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (33, 41, 3), dtype=np.uint8))
    image.save(tmp_path / 'a.png')
    transform = create_eval_transform(input_size=(1, 16, 16), mean=(0.5,), std=(0.5,), interpolation='bicubic')
    batch, = create_image_loader([str(tmp_path / 'a.png')], transform, batch_size=1)
    assert batch.pixels.shape == (1, 1, 16, 16) and torch.equal(batch.pixels[0], transform(image))
    assert not torch.equal(batch.pixels[0], transform(image.convert('L')))


def test_names_that_a_spreadsheet_would_compute(trained, pictures, predict, tmp_path):
    (tmp_path / 'mine').mkdir()
    shutil.copy(pictures / 'a.png', tmp_path / 'mine' / '=1+1.png')
    row, = predict(trained, '--predict', tmp_path / 'mine')
    assert row['file'] == "'=1+1.png"


def test_options_of_the_pixels_win(trained, pictures, predict):
    plain, larger = (predict(trained, '--predict', pictures, *words) for words in ([], ['--img-size', '16']))
    assert [row['probability'] for row in plain] != [row['probability'] for row in larger]


@pytest.mark.parametrize('words, message', [
    (['{trained}', '--predict', '{pictures}/nothing'], 'there is no image file or folder'),
    (['{trained}', '--predict', '{pictures}/empty'], 'there are no images'),
    (['{trained}', '--predict', '{pictures}', '--predictions-file', '{pictures}/nothing/p.csv'], 'no such folder'),
    (['{trained}', '--predict', '{pictures}', '--predictions-file', '{pictures}/empty'], 'name a file in it'),
    (['{trained}', '--predict', '{pictures}', '--results-file', 'r.csv'], '--results-file is about figures'),
    (['{trained}', '--predict', '{pictures}', '--tau-norm', 'sweep'], '--predict takes a network as it is: build --t'),
    (['{trained}', '--predict', '{pictures}', '--dataset', 'lt/digits'], 'leave out --dataset'),
    (['{trained}', '--predict', '{pictures}', '--data-dir', 'x'], 'leave out --data-dir'),
    (['{trained}', '--predict', '{pictures}', '-c', '{pictures}/data.yaml'], 'leave out --data-dir'),
    (['{trained}', '-c', '{pictures}/split.yaml'], "--train-split '' is for other data than a run's"),
    (['{trained}', '{trained}', '--predict', '{pictures}'], 'these are 2; name one checkpoint'),
    (['--predict', '{pictures}'], 'name a checkpoint'),
    (['{trained}', '--predict', '{pictures}', '--model', 'resnet32'], 'holds a resnet20, and --model is resnet32'),
    (['{trained}', '--model', 'resnet32'], 'holds a resnet20, and --model is resnet32'),
    (['{trained}', '--pretrained'], '--pretrained is for the weights that timm knows'),
    (['{trained}', '--topk', '3'], '--topk goes with --predict'),
    (['{trained}', '--predictions-file', 'p.csv'], '--predictions-file goes with --predict'),
])
def test_what_does_not_go(trained, pictures, fails, words, message):
    (pictures / 'empty').mkdir()
    (pictures / 'data.yaml').write_text('data_dir: elsewhere\n')
    (pictures / 'split.yaml').write_text("train_split: ''\n")
    said = fails(*(word.format(trained=trained, pictures=pictures) for word in words))
    assert message in said and said.count('\n') == 1


def test_links_are_followed(pictures, tmp_path):
    other = tmp_path / 'elsewhere'
    other.mkdir()
    (other / 'linked').symlink_to(pictures / 'b')
    assert len(find_images(other)) == 3
    for name, target in (('b/round', 'b'), ('b/up', '.'), ('b/again', 'b/é à')):
        (pictures / name).symlink_to(pictures / target)
    assert len(find_images(pictures)) == len(SHOWN) + 1, 'those of a folder once by each name, and no name is endless'


def test_a_folder_that_cannot_be_read_is_told(pictures, monkeypatch):
    scan = os.scandir

    def scandir(folder):
        if folder == str(pictures / 'b'):
            raise PermissionError(13, 'Permission denied', folder)
        return scan(folder)
    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(UserError, match="cannot read the folder '.*b' .Permission denied"):
        find_images(pictures)


def test_links_between_neighbours_end(tmp_path):
    for name, neighbour in (('a', 'b'), ('b', 'a')):
        (tmp_path / name).mkdir()
        (tmp_path / name / f'{name}.png').touch()
        (tmp_path / name / 'link').symlink_to(tmp_path / neighbour)
    found = [Path(file).relative_to(tmp_path).as_posix() for file in find_images(tmp_path)]
    assert found == ['a/a.png', 'a/link/b.png', 'b/b.png', 'b/link/a.png']


def test_a_file_that_cannot_be_written(trained, pictures, fails, monkeypatch, tmp_path):
    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(engine_predict, 'write_csv', full)
    said = fails(trained, '--predict', pictures, '--predictions-file', tmp_path / 'p.csv')
    assert 'p.csv cannot be written (No space left on device)' in said and said.count('\n') == 1


def test_who_reads_may_stop(trained, pictures):
    command = [sys.executable, '-c', 'import sys; from timm_ltkd.cli.run import validate; validate(sys.argv[1:])']
    with subprocess.Popen(
            [*command, str(trained), '--predict', str(pictures), '--workers', '0'], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0 and 'Traceback' not in said and 'BrokenPipe' not in said
