"""A run with a holdout chooses its epoch there, exports that one, and sees the test split at the very end only."""
import json
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from timm_ltkd.engine import evaluate, teaching
from timm_ltkd.engine.epoch.loop import EpochLoop
from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files
from timm_ltkd.report.summary import read_summary


@pytest.fixture
def evaluations(monkeypatch):
    """How many images each evaluation saw, and what it found; `evaluations.pretend` replaces a metric's values."""
    class Evaluations(list):
        pretend = None
    seen, measure = Evaluations(), evaluate.figures

    def note(answered, count, accelerator, prior):
        report = measure(answered, count, accelerator, prior)
        if seen.pretend:
            report['top1'] = seen.pretend.pop(0)
        seen.append((count, prior.counts.tolist()))
        return report
    for module in evaluate, teaching:  # of networks, of teachers
        monkeypatch.setattr(module, 'figures', note)
    return seen


HOLDOUT = [  # 4, 2 and 1 of 13, 7 and 3 images
    '--model', 'resnet20', '--epochs', '4', '--holdout', '0.3', '--eval-metric', 'top1']


def test_the_best_epoch_on_the_holdout_is_exported(script, options, tmp_path, evaluations, monkeypatch, log):
    weights, train_epoch = [], EpochLoop.run

    def train_and_keep(loop, *args):
        result = train_epoch(loop, *args)
        weights.append({key: value.clone() for key, value in loop.task.get_eval_model().state_dict().items()})
        return result
    monkeypatch.setattr(EpochLoop, 'run', train_and_keep)
    evaluations.pretend = [10., 50., 50., 20., 50., 33.]  # four epochs, the best on the holdout, and on the test split
    script('train', [*options, *HOLDOUT, '--experiment', 'run'])
    assert [images for images, _ in evaluations] == [7, 7, 7, 7, 7, 11], 'the test split once, at the end'
    assert all(counts == [9., 5., 2.] for _, counts in evaluations), 'the prior of what is trained on'
    assert any('7 of 23 training images, 1 to 4 of a class' in line for line in log)

    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['best'] == {'metric': 'top1', 'value': 50., 'epoch': 1, 'chosen_on': 'holdout'}
    assert report['student']['top1'] == 33. and report['student']['num_samples'] == 11
    assert report['holdout']['student']['top1'] == 50. and report['holdout']['student']['num_samples'] == 7
    assert report['data']['class_counts'] == [9, 5, 2] and report['run']['args']['holdout'] == 0.3
    page = (tmp_path / 'run/report.md').read_text()
    assert '## On the holdout' in page and 'nothing was chosen on the split' in page
    exported = load_file(tmp_path / 'run/model.safetensors')
    assert all(torch.equal(value, weights[1][key]) for key, value in exported.items())
    assert not torch.equal(exported['fc.weight'], weights[3]['fc.weight'])
    assert [row['eval_top1'] for row in read_summary(tmp_path / 'run/summary.csv')] == [10., 50., 50., 20.]
    network = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    assert torch.equal(network.state_dict()['fc.weight'], weights[1]['fc.weight'])


def test_without_a_holdout_the_last_epoch_is_exported(script, options, tmp_path, evaluations):
    script('train', [*options, '--model', 'resnet20', '--experiment', 'run'])
    assert [images for images, _ in evaluations] == [11] * 4
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['best']['chosen_on'] == 'validation' and 'holdout' not in report
    assert 'chosen on validation. That is the split of the figures above' in (tmp_path / 'run/report.md').read_text()
    newest = torch.load(checkpoint_files(tmp_path / 'run/last')[0], weights_only=True)
    assert 'best_weights' not in newest
    assert torch.equal(newest['model']['fc.weight'], load_file(tmp_path / 'run/model.safetensors')['fc.weight'])


def test_a_split_that_is_called_holdout_is_none(script, options, images, tmp_path, evaluations):
    shutil.copytree(images / 'train', tmp_path / 'data/train')
    shutil.copytree(images / 'val', tmp_path / 'data/holdout')
    script('train', [*options, '--data-dir', str(tmp_path / 'data'), '--val-split', 'holdout', '--model', 'resnet20',
                     '--experiment', 'run'])
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['best']['chosen_on'] == 'a split named holdout' and 'holdout' not in report
    assert 'That is the split of the figures above' in (tmp_path / 'run/report.md').read_text()


@pytest.mark.parametrize('more', [[], ['--model-ema', '--model-ema-decay', '0.5'], ['--loss', 'ldam']],
                         ids=['plain', 'ema', 'ldam'])
def test_a_resumed_run_exports_the_same_epoch(script, options, tmp_path, evaluations, interrupt, more):
    figures = [10., 50., 20., 40., 50., 33.]
    argv = [*options, *HOLDOUT, *more, '--experiment']
    evaluations.pretend = list(figures)
    script('train', [*argv, 'whole'])

    interrupt(2)
    evaluations.pretend = list(figures)
    with pytest.raises(SystemExit):
        script('train', [*argv, 'resumed'])
    evaluations.pretend = figures[2:]
    script('train', [*argv, 'resumed', '--resume', 'auto'])
    for file in ('model.safetensors', 'summary.csv', 'per_class.csv'):
        assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'resumed' / file).read_bytes(), file
    best, exported = (
        torch.load(checkpoint_files(tmp_path / 'resumed/last')[0], weights_only=True)['best_weights'],
        load_file(tmp_path / 'resumed/model.safetensors'))
    assert torch.equal(best['conv1.weight'], exported['conv1.weight'])

    evaluations.pretend = figures[4:]  # a finished run, once more
    script('train', [*argv, 'resumed', '--resume', 'auto'])
    assert (tmp_path / 'whole/model.safetensors').read_bytes() == (tmp_path / 'resumed/model.safetensors').read_bytes()


def test_teacher_and_student_have_the_same_holdout(script, options, tmp_path, evaluations, log):
    argv = [*options, '--student', 'resnet20', '--teacher', 'resnet20', '--epochs', '1', '--holdout', '0.3']
    script('distill', [*argv, '--holdout-type', 'balanced', '--experiment', 'run'])
    assert [images for images, _ in evaluations] == [5, 5, 11] + [5, 5, 5, 11, 11]  # 2, 2 and 1 are held out
    assert any(line.startswith('teacher on the holdout: ') for line in log)
    assert any(line.startswith('teacher on this data: ') for line in log)
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['teacher']['num_samples'] == 11 and report['holdout']['teacher']['num_samples'] == 5
    script('distill', [*argv, '--holdout-type', 'balanced', '--eval-metric', 'top1', '--experiment', 'other'])
    assert len(list((tmp_path / 'teachers').iterdir())) == 2, 'another metric may choose other weights'


def test_a_run_is_not_resumed_with_another_holdout(script, options, tmp_path, capsys):
    argv = [*options, '--model', 'resnet20', '--epochs', '1', '--experiment', 'run']
    script('train', [*argv, '--holdout', '0.3'])
    for more in (['--holdout', '0.1'], [], ['--holdout', '0.3', '--eval-metric', 'top1']):
        with pytest.raises(SystemExit):
            script('train', [*argv, *more, '--resume', 'auto'])
        assert 'other settings or data' in capsys.readouterr().err


def test_what_cannot_be_held_out_is_told(script, make_images, tmp_path, capsys, log):
    sizes = dict(ant=6, bee=4, cat=1)
    data = make_images(tmp_path / 'data', sizes, dict.fromkeys(sizes, 2))
    argv = ['--dataset', '', '--data-dir', str(data), '--img-size', '8', '--workers', '0', '-b', '4', '--epochs', '1',
            '--model', 'resnet20', '--experiment', 'run']
    script('train', [*argv, '--holdout', '0.25'])
    assert 'classes with one training image keep it and are not measured on the holdout: cat' in log
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['data']['class_counts'] == [4, 3, 1]
    assert np.isnan(float(report['holdout']['student']['per_class'][2] or 'nan'))
