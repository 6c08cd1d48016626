"""Several seeds one after another, where they cannot be trained at once: each ends as it would alone."""
import pytest

from timm_ltkd.engine.epoch.loop import EpochLoop
from timm_ltkd.report.summary import read_summary

FILES = ('model.safetensors', 'config.json', 'summary.csv', 'per_class.csv')


def same(one, other):
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in FILES)


@pytest.mark.parametrize('more, why', [
    (['--loader', 'timm', '--workers', '1', '--drop', '0.3', '--aa', 'rand-m9-mstd0.5'],
     'loader workers are not forked off threads'),
    (['--torchcompile', 'eager', '--model-ema'], '--torchcompile'),
    (['--model', 'test_vit', '--img-size', '32', '--drop-path', '0.3', '--grad-checkpointing'],
     '--grad-checkpointing sets the generators of all'),
], ids=['workers', 'compiled', 'checkpointing'])
def test_each_ends_as_alone(script, options, tmp_path, log, more, why):
    argv = [*options, '--model', 'resnet20', '--epochs', '2', *more]
    script('train', [*argv, '--experiment', 'run', '--seeds', '2', '0'])
    assert f'2 seeds, one after another ({why})' in log
    for seed in '02':
        script('train', [*argv, '--experiment', 'alone', '--overwrite', '--seed', seed])
        assert same(tmp_path / f'run-seed{seed}', tmp_path / 'alone'), seed


@pytest.mark.parametrize('kd', ['bkd', 'krdistill'])
def test_students_have_one_teacher_and_bank(script, options, tmp_path, capsys, log, kd):
    argv = [*options, '--epochs', '2', '--student', 'resnet20', '--teacher', 'resnet20', '--kd', kd,
            '--color-jitter', '0', '--torchcompile', 'eager', '--holdout', '0.3', '--teacher-bank']
    script('distill', [*argv, str(tmp_path / 'bank'), '--experiment', 'run', '--seeds', '0', '1'])
    table = capsys.readouterr().out
    assert all(row in table for row in ('teacher', 'resnet20, seed 0', 'resnet20, seed 1', 'standard deviation'))
    assert len(list((tmp_path / 'teachers').iterdir())) == 1
    assert [line.partition(' of ')[2].split()[0] for line in log if 'showings' in line] == ['32', '32'], 'of each seed'
    for seed in '01':
        script('distill', [*argv, str(tmp_path / f'own{seed}'), '--experiment', 'alone', '--overwrite', '--seed', seed])
        assert same(tmp_path / f'run-seed{seed}', tmp_path / 'alone'), seed


def test_an_interrupted_one_goes_on_with_those_that_are_left(script, options, tmp_path, monkeypatch):
    argv = [*options, '--model', 'resnet20', '--epochs', '2', '--loader', 'timm', '--workers', '1', '--seeds', '0', '1']
    script('train', [*argv, '--experiment', 'whole'])
    train_epoch = EpochLoop.run

    def stop_in_the_second(*args):
        if args[0].args.seed == 1 and args[1] == 1:
            raise KeyboardInterrupt
        return train_epoch(*args)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(EpochLoop, 'run', stop_in_the_second)
        script('train', [*argv, '--experiment', 'run'])
    assert (tmp_path / 'run-seed0/report.json').is_file() and not (tmp_path / 'run-seed1/report.json').exists()
    script('train', [*argv, '--experiment', 'run', '--resume', 'auto'])
    assert all(same(tmp_path / f'run-seed{seed}', tmp_path / f'whole-seed{seed}') for seed in '01')


def test_one_that_fails_does_not_stop_the_others(script, options, tmp_path, ruin, capsys):
    ruin(1)
    with pytest.raises(SystemExit) as stopped:
        script('train', [*options, '--model', 'resnet20', '--loader', 'timm', '--workers', '1', '--epochs', '1',
                         '--experiment', 'x', '--log-with', 'tensorboard', '--seeds', '1', '2'])
    told = capsys.readouterr()
    assert stopped.value.code == 2 and 'resnet20' in told.out
    assert told.err.strip().splitlines()[-1].startswith('train.py: error: seed 1: the loss became NaN or infinite in')
    assert len(read_summary(tmp_path / 'x-seed2/summary.csv')) == 1 and not (tmp_path / 'x-seed1').exists()


def test_two_processes(options, start, launcher, tmp_path):
    argv = [*options, '--student', 'resnet20', '--teacher', 'resnet20', '--epochs', '1', '-b', '4', '--output',
            str(tmp_path)]
    run = start('distill.py', [*argv, '--experiment', 'run', '--seeds', '0', '3'], launcher())
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    assert '2 seeds, one after another (there are 2 processes)' in said and 'standard deviation' in said
    alone = start('distill.py', [*argv, '--experiment', 'alone', '--seed', '3'], launcher())
    assert alone.wait(timeout=300) == 0
    assert same(tmp_path / 'run-seed3', tmp_path / 'alone')
