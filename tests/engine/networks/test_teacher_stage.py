"""The teacher that distill.py trains first: once for each recipe and data, then taken as it is."""
import json
from argparse import Namespace

import pytest
import yaml

from timm_ltkd.engine.teacher_recipe import _choose_rate


@pytest.fixture
def argv(options):
    return [*options, '--epochs', '2', '--student', 'resnet20', '--teacher', 'resnet20']


def teachers(tmp_path):
    return sorted((tmp_path / 'teachers').iterdir()) if (tmp_path / 'teachers').exists() else []


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def test_trained_once_for_all_students(script, argv, tmp_path, log):
    script('distill', [*argv, '--experiment', 'first'])
    teacher, = teachers(tmp_path)
    before = times(teacher)
    assert any('training it first' in line for line in log)
    log.clear()
    script('distill', [*argv, '--experiment', 'second', '--kd', 'kd', '--student', 'resnet32', '--workers', '1',
                       '--val-interval', '2', '--loss', 'balanced_softmax', '--drop', '0.1'])
    assert teachers(tmp_path) == [teacher]
    assert times(teacher) == before
    assert any(f'trained before, from {teacher}' in line for line in log)
    assert not any('training it first' in line for line in log)


def test_another_recipe_or_other_data_is_another_teacher(script, argv, tmp_path, make_images):
    data = make_images(tmp_path / 'data', {'ant': 6, 'bee': 3}, {'ant': 2, 'bee': 2})
    for i, more in enumerate([[], ['--lr', '0.01'], ['--data-dir', str(data)], ['--teacher-seed', '1'], ['-b', '8']]):
        script('distill', [*argv, '--epochs', '1', '--experiment', str(i), *more])
        assert len(teachers(tmp_path)) == i + 1, more


def test_students_of_other_seeds_share_it(script, argv, tmp_path):
    for seed in '01':
        script('distill', [*argv, '--epochs', '1', '--experiment', seed, '--seed', seed])
    assert len(teachers(tmp_path)) == 1


@pytest.mark.parametrize('recipe, student, tune, rate', [
    ({}, {}, 'all', 0.1), ({'pretrained': True}, {}, 'all', 0.01), ({'initial_checkpoint': 'x'}, {}, 'all', 0.01),
    ({'pretrained': True}, {'pretrained': True}, 'all', 0.1), ({'pretrained': True, 'lr': 0.3}, {}, 'all', 0.3),
    ({'pretrained': True}, {}, 'head', 0.1), ({}, {'pretrained': True}, 'all', 1.),
    ({}, {'initial_checkpoint': 'x'}, 'all', 1.), ({'lr': 0.3}, {'pretrained': True}, 'all', 0.3),
    ({'opt': 'adamw'}, {'pretrained': True}, 'all', 0.1)])
def test_the_rate_of_a_teacher_that_starts_from_weights(recipe, student, tune, rate, log, caplog):
    caplog.set_level('INFO', 'timm_ltkd')
    plain = dict(pretrained=False, initial_checkpoint=None, model='net', opt='sgd')
    args = Namespace(**{**plain, 'lr': 0.1, 'teacher_tune': tune, **student})
    own = Namespace(**{**plain, 'lr': None, **recipe})
    _choose_rate(args, own)
    assert own.lr == pytest.approx(rate, abs=0)
    assert ("a tenth of the student's" in '\n'.join(log)) == (rate == 0.01)
    assert ("ten times of the student's" in '\n'.join(log)) == (rate == 1.)


def test_it_is_trained_on_images_of_the_students_size(script, argv, tmp_path):
    """Whatever its network is made for; that of the student may come from its network as well."""
    at = argv.index('--img-size')
    script('distill', [
        *argv[:at], *argv[at + 2:], '--teacher', 'test_resnet', '--no-teacher-pretrained', '--epochs', '1',
        '--experiment', 'run'])
    for folder in (*teachers(tmp_path), tmp_path / 'run'):
        assert json.loads((folder / 'config.json').read_text())['pretrained_cfg']['input_size'] == [3, 32, 32]


@pytest.mark.parametrize('kd, loss, warned', [
    ('bkd', 'balanced_softmax', True), ('kd', 'balanced_softmax', False), ('bkd', 'focal', False)])
def test_a_loss_of_its_own_and_a_method_that_both_correct(script, argv, tmp_path, log, kd, loss, warned):
    """Trained here, or taken as it is."""
    file = tmp_path / 'teacher.yaml'
    file.write_text(f'loss: {loss}\n')
    argv = [*argv, '--epochs', '1', '--kd', kd]
    for i, more in enumerate((['--teacher-config', str(file)], ['--teacher-checkpoint', ''])):
        if i:
            more[1] = str(teachers(tmp_path)[0])
        log.clear()
        script('distill', [*argv, '--experiment', f'run{i}', *more])
        assert (f"the teacher's --loss {loss} and --kd {kd} both make up" in '\n'.join(log)) == warned


def test_its_figures_are_beside_the_students(script, argv, tmp_path):
    script('distill', [*argv, '--experiment', 'run'])
    report = json.loads((tmp_path / 'run/report.json').read_text())
    own = json.loads((teachers(tmp_path)[0] / 'report.json').read_text())
    assert report['teacher'] == own['student']
    assert 'teacher' not in own


def test_a_checkpoint_as_folder_and_as_file(script, argv, options, tmp_path):
    script('train', [*options, '--model', 'resnet20', '--experiment', 'own'])
    for name, path in (('folder', tmp_path / 'own'), ('file', tmp_path / 'own/model.safetensors')):
        script('distill', [*argv, '--teacher-checkpoint', str(path), '--experiment', name])
    assert not teachers(tmp_path)
    for file in ('model.safetensors', 'summary.csv'):
        assert (tmp_path / 'folder' / file).read_bytes() == (tmp_path / 'file' / file).read_bytes()
    reports = [json.loads((tmp_path / run / 'report.json').read_text()) for run in ('folder', 'own')]
    assert reports[0]['teacher'] == reports[1]['student']


def test_each_stage_has_its_own_tracker_files(script, argv, tmp_path):
    pytest.importorskip('tensorboard')
    script('distill', [*argv, '--experiment', 'run', '--log-with', 'tensorboard'])
    for folder in (teachers(tmp_path)[0], tmp_path / 'run'):
        assert len(list((folder / 'timm_ltkd').glob('events.out.tfevents.*'))) == 1


def test_its_own_recipe(script, argv, tmp_path):
    recipe = tmp_path / 'teacher.yaml'
    recipe.write_text('epochs: 1\nloss: balanced_softmax\nlr: 0.01\n')
    script('distill', [*argv, '--teacher-config', str(recipe), '--experiment', 'run'])
    teacher, = teachers(tmp_path)
    options = yaml.safe_load((teacher / 'args.yaml').read_text())
    expected = {'epochs': 1, 'loss': 'balanced_softmax', 'lr': 0.01, 'model': 'resnet20'}
    assert {key: options[key] for key in expected} == expected
    assert len((teacher / 'summary.csv').read_text().splitlines()) == 1 + 1
    assert len((tmp_path / 'run/summary.csv').read_text().splitlines()) == 1 + 2


def test_a_folder_that_cannot_be_used_is_told_before_the_teacher_is_trained(script, argv, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/thesis.tex').write_text('precious')
    for more in ([], ['--overwrite']):
        with pytest.raises(SystemExit) as stopped:
            script('distill', [*argv, '--experiment', 'run', *more])
        assert stopped.value.code == 2
        assert not teachers(tmp_path)


def test_overwrite_keeps_the_old_run_until_the_teacher_is_there(script, argv, tmp_path, monkeypatch):
    script('distill', [*argv, '--experiment', 'run'])
    before = times(tmp_path / 'run')
    with pytest.raises(SystemExit):
        script('distill', [
            *argv, '--experiment', 'run', '--overwrite', '--teacher-checkpoint', str(tmp_path / 'nowhere')])
    assert times(tmp_path / 'run') == before
    script('distill', [*argv, '--experiment', 'run', '--overwrite', '--kd', 'kd'])
    assert 'kd: kd' in (tmp_path / 'run/args.yaml').read_text()

def test_a_teachers_own_cuda_graph_is_checked_too(script, options, tmp_path, capsys):
    (tmp_path / 'teacher.yaml').write_text('cuda_graph: true\n')
    with pytest.raises(SystemExit) as stopped:
        script('distill', [*options, '--student', 'resnet20', '--teacher-config', str(tmp_path / 'teacher.yaml')])
    assert stopped.value.code == 2 and '--cuda-graph needs a CUDA GPU' in capsys.readouterr().err
