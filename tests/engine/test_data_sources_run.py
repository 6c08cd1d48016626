"""Whole runs on listed and named data: what the log and the run's folder say of them."""
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from timm_ltkd.data import published

PIXELS = ['--img-size', '8', '--workers', '0', '--train-crop-mode', 'pad', '--crop-padding', '1']
SHORT = ['--epochs', '1', '-b', '4', '--warmup-epochs', '0']


def report_of(folder):
    return json.loads((folder / 'report.json').read_text())


def test_a_run_on_lists(script, lists, tmp_path, log):
    script('train', [*lists, *PIXELS, *SHORT, '--many-shot', '7', '--few-shot', '4', '--experiment', 'run'])
    data = report_of(tmp_path / 'run')['data']
    assert data['class_names'] == ['bee', 'cat', 'ant'] and data['class_counts'] == [7, 3, 13]
    assert data['groups'] == {'many': [2], 'medium': [0], 'few': [1]}
    assert (data['many_shot'], data['few_shot']) == (7, 4)
    student = report_of(tmp_path / 'run')['student']
    assert student['many'] == student['per_class'][2] and student['few'] == student['per_class'][1]
    assert 'many &gt; 7, few &lt; 4' in (tmp_path / 'run' / 'report.md').read_text()
    assert yaml.safe_load((tmp_path / 'run' / 'args.yaml').read_text())['dataset'] == 'lt/list'  # chosen by itself
    profile = next(message for message in log if 'classes by training images' in message)
    assert profile.startswith('lt/list: classes: 3') and 'many > 7, few < 4' in profile
    script('validate', [str(tmp_path / 'run'), '--workers', '0', '--results-file', str(tmp_path / 'r.json')])
    again, = json.loads((tmp_path / 'r.json').read_text()).values()
    assert {key: again[key] for key in ('few', 'many', 'per_class')} == {
        key: student[key] for key in ('few', 'many', 'per_class')}


def test_the_profile_is_drawn_when_training_starts(script, options, tmp_path, monkeypatch):
    from timm_ltkd.engine import training
    there = []
    run_epoch = training.Training.run_epoch

    def look(self):
        there.append((tmp_path / 'run' / 'class_profile.png').is_file())
        run_epoch(self)

    monkeypatch.setattr(training.Training, 'run_epoch', look)
    script('train', [*options, '--epochs', '1', '--experiment', 'run'])
    assert there == [True]


def test_classes_without_a_validation_image_are_named(script, make_images, tmp_path, log):
    sizes = {f'c{c}': 2 for c in range(8)}
    root = make_images(tmp_path / 'images', sizes, {'c1': 1})
    script('train', ['--dataset', '', '--data-dir', str(root), *PIXELS, *SHORT])
    assert '7 of 8 classes have no validation image and are not measured: c0, c2, c3, c4, c5 and 2 more' in log
    log.clear()
    root = make_images(tmp_path / 'whole', sizes, sizes)
    script('train', ['--dataset', '', '--data-dir', str(root), *PIXELS, *SHORT])
    assert not any('validation image' in message for message in log)


def test_a_named_set_by_another_list(script, lists, log):
    script('train', [*lists, *PIXELS, *SHORT, '--dataset', 'lt/places365'])
    assert [message for message in log if 'was published with' in message] == [
        published.mismatch('lt/places365', np.array([7, 3, 13]))]
    log.clear()
    script('train', [*lists, *PIXELS, *SHORT, '--dataset', 'lt/places365', '--imbalance-factor', '3'])
    assert not any('was published with' in message for message in log)


def test_figures_on_another_sample_say_so(script, images, tmp_path, log, monkeypatch):
    monkeypatch.setattr('timm_ltkd.data.factory.imagenet_lt_counts', lambda names: np.array([5, 3, 2]))
    script('train', ['--dataset', 'lt/imagenet_by_counts', '--data-dir', str(images), *PIXELS, *SHORT,
                     '--experiment', 'run'])
    remark = published.remark('lt/imagenet_by_counts')
    assert log.count(remark) == 1 and report_of(tmp_path / 'run')['run']['data'] == remark
    assert 'not figures on ImageNet-LT' in (tmp_path / 'run' / 'report.md').read_text()


def test_a_missing_image_ends_the_run_in_one_line(script, lists, images, tmp_path, capsys):
    train = tmp_path / 'train.txt'
    text = open(lists[lists.index('--train-list') + 1]).read()
    train.write_text(text + 'train/ant/gone.png 2\n')
    with pytest.raises(SystemExit):
        script('train', [*lists, '--train-list', str(train), *PIXELS, *SHORT])
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"train.py: error: there is no image '{images}/train/ant/gone.png'; put it there, or check the data folder and "
        'what lists it')


def test_a_validation_list_of_another_folder_is_told_before_training(script, lists, tmp_path, capsys):
    val = tmp_path / 'val.txt'
    val.write_text('elsewhere/0.png 2\nelsewhere/1.png 0\n')
    with pytest.raises(SystemExit):
        script('train', [*lists, '--val-list', str(val), *PIXELS, *SHORT, '--experiment', 'run'])
    assert "elsewhere/0.png'; put it there" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'run').exists()


def test_images_that_are_trained_and_measured_on_are_told(script, lists, tmp_path, log):
    val = tmp_path / 'val.txt'
    train = Path(lists[lists.index('--train-list') + 1]).read_text().splitlines()
    val.write_text(train[0] + '\n')
    script('train', [*lists, '--val-list', str(val), *PIXELS, *SHORT])
    assert '1 images are trained on, and measured on as well' in '\n'.join(log)
