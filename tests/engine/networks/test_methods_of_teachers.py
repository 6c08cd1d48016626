"""`--teacher a b --kd x y`: each teacher by its own method; `--kd x y` of one: both from the same."""
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from timm_ltkd.engine import teaching
from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files
from timm_ltkd.engine.teaching import teacher_class_means
from timm_ltkd.report.summary import read_summary


@pytest.fixture(scope='module')
def teachers(train_once):
    """The folders of two trained teachers, with features of 256 and 128 numbers."""
    return [str(train_once(name)) for name in ('resnet8x4', 'wrn_16_2')]


@pytest.fixture
def two(options, teachers):
    return [*options, '--epochs', '2', '--student', 'resnet20', '--teacher', 'resnet8x4', 'wrn_16_2',
            '--teacher-checkpoint', *teachers]


@pytest.fixture
def one(options, teachers):
    return [*options, '--epochs', '2', '--student', 'resnet20', '--teacher', 'resnet8x4',
            '--teacher-checkpoint', teachers[0]]


@pytest.fixture
def passes(monkeypatch):
    """The teachers whose class means were computed, and these."""
    made = []

    def watch(teacher, *args):
        made.append((teacher, teacher_class_means(teacher, *args)))
        return made[-1][1]
    monkeypatch.setattr(teaching, 'teacher_class_means', watch)
    return made


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def method_state(folder):
    state = torch.load(checkpoint_files(folder / 'last')[0], weights_only=True)['model']
    return {key.removeprefix('method.methods.'): value for key, value in state.items() if key.startswith('method.')}


def test_each_teacher_by_its_own_method(script, two, tmp_path, log):
    script('distill', [*two, '--kd', 'bkd', 'feature', '--experiment', 'run'])
    row = read_summary(tmp_path / 'run/summary.csv')[-1]
    assert row['train_loss'] == pytest.approx(
        row['train_task_loss'] + row['train_teacher1_bkd_loss'] + row['train_teacher2_feature_loss'], rel=1e-5)
    found = report(tmp_path / 'run')
    assert found['run']['method'] == 'bkd + feature' and found['run']['teacher'] == 'resnet8x4 + wrn_16_2'
    assert found['run']['args']['kd'] == ['bkd', 'feature'] and 'rectification' not in found['run']
    assert any(line.startswith('all teachers together on this data: ') for line in log)
    learns, = (line for line in log if line.startswith('learns from '))
    assert learns.startswith('learns from resnet8x4 by bkd (') and ', from wrn_16_2 by feature' in learns
    assert method_state(tmp_path / 'run')['teacher2.projector.weight'].shape == (128, 64)
    assert not any('method' in key for key in load_file(tmp_path / 'run/model.safetensors'))


def test_a_folder_is_called_after_all_of_them(script, one, tmp_path):
    script('distill', [*one, '--epochs', '1', '--kd', 'bkd', 'kd'])
    assert [path.name.split('-', 2)[2] for path in tmp_path.iterdir()] == ['resnet20-bkd+kd']


def test_each_has_its_own_class_means_and_a_resumed_run_computes_none(
        script, two, tmp_path, passes, interrupt):
    argv = [*two, '--kd', 'krdistill', 'krdistill', '--model-ema']
    script('distill', [*argv, '--experiment', 'whole'])
    assert [means.shape for _, means in passes] == [(3, 256), (3, 128)]
    state = method_state(tmp_path / 'whole')
    for label, (_, means) in zip(('teacher1', 'teacher2'), passes, strict=True):
        assert torch.allclose(state[f'{label}.feature_centre'].double(), means.mean(0), rtol=1e-6)
        assert state[f'{label}.prior_directions'].shape == means.shape
    interrupt(1)
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--experiment', 'parts'])
    assert len(passes) == 4
    script('distill', [*argv, '--experiment', 'parts', '--resume', 'auto'])
    assert len(passes) == 4, 'what is in the checkpoint is not computed again'
    for file in ('model.safetensors', 'summary.csv', 'per_class.csv'):
        assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'parts' / file).read_bytes(), file
    said = report(tmp_path / 'whole')['run']['rectification']
    assert said == report(tmp_path / 'parts')['run']['rectification']
    assert said.keys() == {
        'inert', *(f'teacher{i}_{figure}' for i in (1, 2) for figure in ('swap_share', 'feature_shift'))}
    rows = read_summary(tmp_path / 'whole/summary.csv')
    assert rows[-1]['teacher2_feature_shift_few'] == said['teacher2_feature_shift']['few'] > 0


def test_several_methods_of_one_teacher_are_added(script, one, tmp_path, passes):
    script('distill', [*one, '--kd', 'bkd', 'krdistill', '--experiment', 'run', '--kd-kwargs', 'krdistill.lrd=none'])
    assert [means.shape for _, means in passes] == [(3, 256)]
    row = read_summary(tmp_path / 'run/summary.csv')[-1]
    terms = ('bkd_loss', 'krdistill_lrd_loss', 'krdistill_rrd_loss')
    assert row['train_loss'] == pytest.approx(row['train_task_loss'] + sum(row[f'train_{t}'] for t in terms), rel=1e-5)
    assert 'krdistill_feature_shift' in report(tmp_path / 'run')['run']['rectification']


def test_several_of_which_one_has_no_weight_are_the_other(script, one, tmp_path):
    script('distill', [*one, '--kd', 'bkd', '--experiment', 'alone'])
    script('distill', [*one, '--kd', 'bkd', 'kd', '--kd-kwargs', 'kd.alpha=0', '--experiment', 'both'])
    alone, both = (load_file(tmp_path / run / 'model.safetensors') for run in ('alone', 'both'))
    assert all(torch.allclose(value, both[key], rtol=1e-4, atol=1e-5) for key, value in alone.items())


def test_args_yaml_repeats_the_run(script, two, tmp_path):
    script('distill', [*two, '--epochs', '1', '--experiment', 'one', '--kd', 'bkd', 'kd', '--kd-kwargs',
                       'temperature=3', 'bkd.beta=0.99'])
    found = yaml.safe_load((tmp_path / 'one/args.yaml').read_text())
    assert found['kd'] == ['bkd', 'kd'] and found['kd_kwargs'] == {'temperature': 3, 'bkd.beta': 0.99}
    script('distill', ['-c', str(tmp_path / 'one/args.yaml'), '--experiment', 'two'])
    for name in ('args.yaml', 'model.safetensors'):
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes()


def test_another_method_is_another_run_and_it_is_said_which(script, two, tmp_path, capsys):
    argv = [*two, '--epochs', '1', '--experiment', 'run', '--resume', 'auto', '--kd']
    script('distill', [*argv, 'kd', 'bkd'])
    with pytest.raises(SystemExit):
        script('distill', [*argv, 'bkd', 'kd', '--lr', '0.1'])
    assert 'other settings or data: --kd was kd bkd and is bkd kd, --lr was 0.05 and is 0.1; repeat them with -c' \
        in capsys.readouterr().err


@pytest.mark.parametrize('more, message', [
    (['--kd', 'kd', 'bkd', 'dkd'], '--kd: 3 for 2 teachers; name one for all, or one for each in the same order'),
    (['--kd', 'bkd', 'dkd', '--mixup', '0.2'], '--mixup makes soft labels, and --kd dkd needs to know the one class'),
    (['--kd', 'bkd', 'krdistill', '--kd-kwargs', 'alfa=1'], 'none of the methods bkd, krdistill has an option'),
])
def test_mistakes_are_told_before_anything_is_made(script, two, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        script('distill', [*two, *more])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_the_log_warns_of(script, one, log, monkeypatch):
    monkeypatch.setattr('timm_ltkd.engine.processes.launch.os.sched_getaffinity', lambda pid: {0}, raising=False)
    script('distill', [
        *one, '--epochs', '1', '--kd', 'kd', 'bkd', '--kd-kwargs', 'deferred_epochs=2', '--loss', 'weighted_ce',
        '--loss-kwargs', 'deferred_epochs=1', '--class-sampling', 'class', '--workers', '3'])
    assert [line.partition(' both ')[0] for line in log if 'correct them twice' in line] == [
        f'--class-sampling class and --{option}' for option in ('loss weighted_ce', 'kd bkd')]
    assert sorted(line for line in log if 'never come in' in line) == [
        f'--{option} deferred_epochs={epochs}: the run ends after 1 epochs, so class weights never come in; lower it'
        for option, epochs in (('kd-kwargs', 2), ('loss-kwargs', 1))]
    script('distill', [*one, '--epochs', '1', '--kd', 'dkd', '--kd-kwargs', 'warmup_epochs=2'])
    assert log.count('--kd-kwargs warmup_epochs=2: the run ends after 1 epochs, before the loss has its whole weight; '
                     'lower it') == 1
    assert log.count('1 loader workers a process instead of 3: there are no more cores') == 1


def test_class_weights_that_come_in_in_time_are_not_warned_of(script, one, log):
    script('distill', [*one, '--epochs', '2', '--kd', 'bkd', '--kd-kwargs', 'deferred_epochs=1'])
    script('distill', [*one, '--epochs', '1', '--cooldown-epochs', '1', '--kd', 'bkd', '--kd-kwargs',
                       'deferred_epochs=1', '--loss', 'weighted_ce', '--loss-kwargs', 'deferred_epochs=1'])
    script('distill', [*one, '--epochs', '1', '--kd', 'dkd', '--kd-kwargs', 'warmup_epochs=1'])
    assert not any('never come in' in line or 'whole weight' in line or 'loader workers' in line for line in log)
