"""`--teacher a b`: trained and kept one by one, and one teacher to the student."""
import json

import pytest
import yaml
from safetensors.torch import load_file


@pytest.fixture
def argv(options):
    return [*options, '--epochs', '1', '--student', 'resnet20', '--kd', 'kd']


def names(folder):
    return sorted(path.name.rpartition('-')[0] for path in (folder / 'teachers').iterdir())


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def weights(folder):
    return (folder / 'model.safetensors').read_bytes()


def lines(log, start):
    return [line for line in log if line.startswith(start)]


def test_each_is_trained_once_and_kept_for_others(script, argv, tmp_path, log):
    script('distill', [*argv, '--experiment', 'one', '--teacher', 'resnet20'])
    alone = next((tmp_path / 'teachers').iterdir())
    before = {path: path.stat().st_mtime_ns for path in alone.rglob('*')}
    log.clear()
    script('distill', [*argv, '--experiment', 'two', '--teacher', 'resnet20', 'wrn_16_2'])
    assert names(tmp_path) == ['resnet20', 'wrn_16_2']
    assert {path: path.stat().st_mtime_ns for path in alone.rglob('*')} == before
    assert lines(log, 'teacher resnet20: trained before') and lines(log, 'teacher wrn_16_2: training it first')
    assert not lines(log, 'teacher resnet20: training')


def test_the_row_of_the_report_is_all_of_them_and_the_log_tells_of_each(script, argv, tmp_path, log, capsys):
    script('distill', [*argv, '--experiment', 'run', '--teacher', 'resnet20', 'wrn_16_2'])
    for name in ('resnet20', 'wrn_16_2'):
        own = report(next((tmp_path / 'teachers').glob(f'{name}-*')))['student']
        line, = lines(log, f'teacher {name} on this data: ')
        assert f'top1 {own["top1"]:.2f}, balanced {own["balanced"]:.2f}' in line
    together, = lines(log, 'all teachers together on this data: ')
    found = report(tmp_path / 'run')
    assert f'top1 {found["teacher"]["top1"]:.2f}, balanced {found["teacher"]["balanced"]:.2f}' in together
    assert found['run']['teacher'] == 'resnet20 + wrn_16_2'
    assert found['run']['args']['teacher'] == ['resnet20', 'wrn_16_2']
    assert 'teacher resnet20 + wrn_16_2' in capsys.readouterr().out
    assert '| teacher resnet20 + wrn_16_2 |' in (tmp_path / 'run/report.md').read_text().replace('\\', '')


def test_two_of_the_same_weights_teach_as_one(script, argv, options, tmp_path, log):
    script('train', [*options, '--epochs', '1', '--model', 'resnet20', '--experiment', 'own'])
    own = str(tmp_path / 'own')
    script('distill', [*argv, '--experiment', 'once', '--teacher', 'resnet20', '--teacher-checkpoint', own])
    script('distill', [*argv, '--experiment', 'twice', '--teacher', 'resnet20', 'resnet20',
                       '--teacher-checkpoint', own, f'{own}/model.safetensors'])
    for source in (own, f'{own}/model.safetensors'):  # what tells them apart
        assert lines(log, f'teacher {source} on this data: ')
    assert weights(tmp_path / 'once') == weights(tmp_path / 'twice')
    assert report(tmp_path / 'once')['teacher'] == report(tmp_path / 'twice')['teacher']
    assert not (tmp_path / 'teachers').exists()
    options = yaml.safe_load((tmp_path / 'once/args.yaml').read_text())
    assert options['teacher'] == 'resnet20' and options['teacher_checkpoint'] == own


def test_checkpoints_belong_to_the_teachers_in_their_order(script, argv, options, tmp_path):
    for name in ('resnet20', 'wrn_16_2'):
        script('train', [*options, '--epochs', '1', '--model', name, '--experiment', name])
    paths = [str(tmp_path / name / 'model.safetensors') for name in ('wrn_16_2', 'resnet20')]
    teachers = ['--teacher', 'wrn_16_2', 'resnet20']
    script('distill', [*argv, '--experiment', 'run', *teachers, '--teacher-checkpoint', *paths])
    script('distill', [*argv, '--experiment', 'trained', *teachers, '--teacher-seed', '42'])
    assert weights(tmp_path / 'run') == weights(tmp_path / 'trained')
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--teacher', 'resnet20', 'wrn_16_2', '--teacher-checkpoint', *paths])


def test_another_teacher_is_another_run(script, argv, tmp_path, capsys):
    argv = [*argv, '--experiment', 'run', '--resume', 'auto']
    script('distill', [*argv, '--teacher', 'resnet20'])
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--teacher', 'resnet20', 'wrn_16_2'])
    assert 'was started with other settings' in capsys.readouterr().err
    assert names(tmp_path) == ['resnet20'], 'found out before the second was trained'


def test_resumed_is_the_same_as_in_one_go(script, argv, tmp_path):
    argv = [*argv, '--epochs', '2', '--teacher', 'resnet20', 'wrn_16_2']
    for name in ('whole', 'parts'):
        script('distill', [*argv, '--experiment', name])
    newest = sorted((tmp_path / 'parts/last').glob('checkpoint-*.pt'))[-1]
    newest.unlink()
    before = weights(tmp_path / 'parts')
    (tmp_path / 'parts/model.safetensors').unlink()
    script('distill', [*argv, '--experiment', 'parts', '--resume', 'auto'])
    assert weights(tmp_path / 'parts') == before == weights(tmp_path / 'whole')


def test_they_share_a_recipe(script, argv, tmp_path):
    (tmp_path / 'teacher.yaml').write_text('loss: balanced_softmax\nlr: 0.01\n')
    script('distill', [
        *argv, '--experiment', 'run', '--teacher', 'resnet20', 'wrn_16_2', '--teacher-config',
        str(tmp_path / 'teacher.yaml')])
    for folder in (tmp_path / 'teachers').iterdir():
        found = yaml.safe_load((folder / 'args.yaml').read_text())
        assert (found['loss'], found['lr']) == ('balanced_softmax', 0.01)
        assert folder.name.startswith(found['model'])
        assert load_file(folder / 'model.safetensors')


@pytest.mark.parametrize('more, message', [
    (['--kd', 'feature'], '--kd feature learns from features, and those of several teachers have nothing in common'),
    (['--kd', 'krdistill'], '--kd krdistill learns from features'),
    (['--teacher', 'resnet20', 'vgg11'], "--teacher 'vgg11' takes no images of 8x8 pixels"),
    (['--teacher', 'resnet20', 'resnet20'], "--teacher names 'resnet20' twice, and both would be the same network"),
    (['--teacher', 'resnet20', 'resnet21'], "--teacher: unknown model 'resnet21'"),
    (['--teacher-checkpoint', 'one'], '--teacher-checkpoint: 1 given for 2 of --teacher; give one for each'),
    (['--teacher-checkpoint', 'a', 'b', 'c'], '--teacher-checkpoint: 3 given for 2 of --teacher'),
    (['--teacher', 'resnet20', '--teacher-checkpoint', 'a', 'b'], '--teacher-checkpoint: 2 given for 1 of --teacher'),
])
def test_mistakes_are_told_before_the_first_is_trained(script, argv, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        script('distill', [*argv, '--teacher', 'resnet20', 'wrn_16_2', *more])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_krdistill_on_logits_alone_takes_several(script, argv, tmp_path):
    script('distill', [
        *argv, '--experiment', 'run', '--teacher', 'resnet20', 'wrn_16_2', '--kd', 'krdistill',
        '--kd-kwargs', 'rrd=none'])
    assert report(tmp_path / 'run')['run']['method'] == 'krdistill'
