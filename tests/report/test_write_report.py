"""The files of a finished run, read back."""
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from timm_ltkd.errors import UserError
from timm_ltkd.metrics import calibration, long_tail_report
from timm_ltkd.prior import ClassPrior
from timm_ltkd.report import write as write_module
from timm_ltkd.report import write_report

PRIOR = ClassPrior([300, 150, 50, 5])
NAMES = ['a|b', '<script>', 'naïve 猫', 'x\ny\udcff']
TARGETS = np.repeat(np.arange(4), 10)
HISTORY = [{'epoch': 0, 'train_loss': 1., 'eval_top1': 30., 'lr': 0.1}]
RUN = {
    'student': 'resnet20', 'teacher': 'resnet32', 'seconds': np.float32(1.5), 'output': Path('out'), 'images': (3, 4),
    'best': {'metric': 'balanced', 'value': 42.5, 'epoch': 7, 'chosen_on': 'holdout'},
    'args': {'lr': 0.1, 'lost': float('nan'), 'weights': torch.tensor([1., 2.]), 'none': None},
}


def diagnosed(report):
    """With what the engine adds to a report, for more figures."""
    confused = {'many': {'many': 15, 'medium': 5, 'few': 0}, 'medium': {'many': 1, 'medium': 7, 'few': 2},
                'few': {'many': 6, 'medium': 1, 'few': 3}}
    return report | {'group_confusion': confused, 'calibration': calibration(np.linspace(0.3, 1., 40), TARGETS == 0)}


def report_with(hits):
    """A report where class c has hits[c] of 10 right."""
    prediction = np.where(np.tile(np.arange(10), 4) < np.repeat(hits, 10), TARGETS, (TARGETS + 1) % 4)
    return long_tail_report(prediction, TARGETS, PRIOR)


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr(write_module, 'plot_pictures', lambda *args: None)


TEACHER, STUDENT = report_with([9, 8, 4, 0]), report_with([8, 8, 5, 3])


def refuse_constant(name):
    raise AssertionError(f'{name} is not JSON')


def write(folder, **changes):
    return write_report(folder, **{
        'student': STUDENT, 'teacher': TEACHER, 'prior': PRIOR, 'class_names': NAMES, 'history': HISTORY, 'run': RUN,
        **changes})


def test_the_paths_written_are_the_files_there(tmp_path):
    paths = write(tmp_path / 'new' / 'folder')
    assert sorted(path.name for path in paths) == [
        'accuracy_by_frequency.png', 'class_profile.png', 'curves.png', 'per_class.csv', 'report.html', 'report.json',
        'report.md', 'teacher_student.png']
    assert sorted(paths) == sorted((tmp_path / 'new' / 'folder').iterdir())


def test_json(no_figures, tmp_path):
    write(tmp_path)
    text = (tmp_path / 'report.json').read_text(encoding='utf-8')
    report = json.loads(text, parse_constant=refuse_constant)
    assert list(report) == ['best', 'data', 'run', 'student', 'teacher']
    assert report['student'] == STUDENT and report['teacher'] == TEACHER
    assert report['data'] == {
        'num_classes': 4, 'num_train': 505, 'imbalance_factor': 60., 'class_counts': [300, 150, 50, 5],
        'class_names': NAMES, 'groups': {'many': [0, 1], 'medium': [2], 'few': [3]},
        'many_shot': 100, 'few_shot': 20}
    assert report['best'] == RUN['best']
    assert report['run'] == {
        'student': 'resnet20', 'teacher': 'resnet32', 'seconds': 1.5, 'output': 'out', 'images': [3, 4],
        'best': RUN['best'], 'args': {'lr': 0.1, 'lost': None, 'weights': [1., 2.], 'none': None}}


def test_equal_runs_give_equal_bytes(tmp_path):
    one = write(tmp_path / 'one')
    other = write(tmp_path / 'other', run=dict(reversed(RUN.items())))
    assert [path.read_bytes() for path in one if path.suffix in ('.json', '.csv', '.png')] == [
        path.read_bytes() for path in other if path.suffix in ('.json', '.csv', '.png')]


def test_per_class_csv(no_figures, tmp_path):
    write(tmp_path)
    with open(tmp_path / 'per_class.csv', newline='', encoding='utf-8') as f:
        header, *lines = csv.reader(f)
    assert header == ['class', 'name', 'train_images', 'group', 'student', 'teacher']
    assert lines == [
        ['0', 'a|b', '300', 'many', '80.0', '90.0'], ['1', '<script>', '150', 'many', '80.0', '80.0'],
        ['2', 'naïve 猫', '50', 'medium', '50.0', '40.0'], ['3', 'x\ny\\udcff', '5', 'few', '30.0', '0.0']]


def test_markdown(no_figures, tmp_path):
    write(tmp_path, class_names=['many|images', '<b>', 'c', 'one`image'])
    page = (tmp_path / 'report.md').read_text(encoding='utf-8')
    assert '| teacher resnet32 | 52.50 | 52.50 | 85.00 | 40.00 | 0.00 | 0.00 |' in page
    assert '| student resnet20 | 60.00 | 60.00 | 80.00 | 50.00 | 30.00 | 30.00 |' in page
    assert '| many | 2 | 450 | 85.00 | 80.00 | -5.00 |' in page
    assert '| few | 1 | 5 | 0.00 | 30.00 | +30.00 |' in page
    assert '| balanced | 4 | 505 | 52.50 | 60.00 | +7.50 |' in page
    assert r"largest class: 0 'many\|images' (300 images)" in page and r"3 'one\`image'" in page
    assert 'Best balanced: 42.50 at epoch 8 (counted from 1), chosen on holdout.' in page
    assert 'args' not in page and '- seconds: 1.5\n' in page
    assert re.search(r'^!\[.+\]\(curves\.png\)$', page, re.M)


def test_the_students_mistakes_are_told(no_figures, tmp_path):
    told = [{'class': 3, 'taken_for': 0, 'images': 7, 'of': 10}, {'class': 1, 'taken_for': 2, 'images': 2, 'of': 9}]
    write(tmp_path, student=STUDENT | {'mistakes': told}, teacher=TEACHER | {'mistakes': told[:1] * 2})
    text, page = (tmp_path / 'report.md').read_text(), (tmp_path / 'report.html').read_text()
    _, section = text.split('## Most frequent mistakes\n\n')
    lines = section.split('\n\n')[0].splitlines()
    assert len(lines) == 4 and lines[2].endswith('| a\\|b | 5 | 300 | 7 of 10 |')
    assert 'Most frequent mistakes' in page and '7 of 10' in page and '2 of 9' in page
    assert json.loads((tmp_path / 'report.json').read_text())['student']['mistakes'] == told
    write(tmp_path / 'none', student=STUDENT | {'mistakes': []})
    assert 'mistakes' not in (tmp_path / 'none/report.md').read_text()


def test_without_teacher_best_and_history(tmp_path):
    paths = write(tmp_path, teacher=None, history=[], run={})
    assert 'curves.png' not in [path.name for path in paths] and not (tmp_path / 'curves.png').exists()
    assert list(json.loads((tmp_path / 'report.json').read_text())) == ['data', 'run', 'student']
    assert (tmp_path / 'per_class.csv').read_text().startswith('class,name,train_images,group,student\n')
    page = (tmp_path / 'report.md').read_text()
    assert 'minus' not in page and 'curves.png' not in page and '## Run' not in page


def test_classes_without_a_test_image_are_blank_and_null(no_figures, tmp_path):
    report = long_tail_report([0, 1], [0, 1], PRIOR)
    write(tmp_path, student=report, teacher=None)
    assert json.loads((tmp_path / 'report.json').read_text())['student']['per_class'] == [100., 100., None, None]
    assert (tmp_path / 'per_class.csv').read_text().splitlines()[3] == '2,naïve 猫,50,medium,'


def test_group_boundaries_reach_every_file(no_figures, tmp_path):
    prior = ClassPrior(PRIOR.counts, many=200, few=100)
    write(tmp_path, student=long_tail_report(TARGETS, TARGETS, prior), teacher=None, prior=prior)
    groups = json.loads((tmp_path / 'report.json').read_text())['data']['groups']
    assert groups == {'many': [0], 'medium': [1], 'few': [2, 3]}
    assert ',50,few,' in (tmp_path / 'per_class.csv').read_text()
    text = (tmp_path / 'report.md').read_text()
    assert 'many &gt; 200, few &lt; 100' in text and 'more than 200, 100 to 200 and fewer than 100' in text


@pytest.mark.parametrize('changes, message', [
    ({'class_names': ['a']}, '1 class names for 4 classes'),
    ({'teacher': {'per_class': [1.]}}, "the teacher's report has 1 classes, the training set 4"),
])
def test_bad_input_writes_nothing(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / 'out', **changes)
    assert not (tmp_path / 'out').exists()


def test_figures_that_the_reports_allow(tmp_path):
    paths = write(tmp_path / 'both', student=diagnosed(STUDENT), teacher=diagnosed(TEACHER))
    assert {path.name for path in paths if path.suffix == '.png'} == {
        'accuracy_by_frequency.png', 'class_profile.png', 'curves.png', 'teacher_student.png', 'group_confusion.png',
        'calibration.png'}
    paths = write(tmp_path / 'alone', teacher=None, history=[])
    assert {path.name for path in paths if path.suffix == '.png'} == {'accuracy_by_frequency.png', 'class_profile.png'}
    assert all(path.is_file() for path in paths)
