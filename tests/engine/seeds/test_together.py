"""Several seeds in one process: each ends as it would alone."""
import threading

import pytest
import torch
from accelerate.utils import KwargsHandler

from timm_ltkd.data import GENERATORS
from timm_ltkd.distill import TeacherBank
from timm_ltkd.engine import build, jobs, training
from timm_ltkd.engine.epoch import graph
from timm_ltkd.engine.epoch.loop import EpochLoop
from timm_ltkd.engine.run_folder.folder import RunFolder
from timm_ltkd.engine.seeds.together import Stopped, Turn, at_once
from timm_ltkd.errors import UserError
from timm_ltkd.report.summary import read_summary

FILES = ('model.safetensors', 'config.json', 'summary.csv', 'per_class.csv')
TINY_VIT = ['patch_size=4', 'embed_dim=16', 'depth=2', 'num_heads=2']


@pytest.fixture
def script(script, monkeypatch):
    """Up to three runs at a time, whatever this machine has; each has one thread, as a run alone in these tests."""
    def call(name, argv):
        with monkeypatch.context() as patch:
            if '--seeds' in argv:
                patch.setattr(torch, 'get_num_threads', lambda: 3)
            try:
                script(name, argv)
            finally:
                torch.set_num_threads(1)
    return call


def assert_as_alone(together, alone):
    for file in FILES:
        assert (together / file).read_bytes() == (alone / file).read_bytes(), (together.name, file)


@pytest.mark.parametrize('more', [
    ['--model', 'resnet20'],
    ['--model', 'resnet20', '--drop', '0.3', '--model-ema', '--model-ema-decay', '0.5'],
    ['--model', 'vit_tiny_patch16_224', '--model-kwargs', *TINY_VIT, '--drop-path', '0.3', '--lr', '0.001'],
    ['--model', 'resnet20', '--mixup', '0.5', '--cutmix', '0.5', '--grad-accum-steps', '2'],
    ['--model', 'resnet20', '--loader', 'timm', '--aa', 'rand-m9-mstd0.5'],
], ids=['plain', 'dropout', 'drop_path', 'mixing', 'images_decoded_anew'])
def test_networks(script, options, tmp_path, more):
    argv = [*options, '--epochs', '2', *more]
    script('train', [*argv, '--experiment', 'together', '--seeds', '2', '0'])
    for seed in '02':
        script('train', [*argv, '--experiment', f'alone-{seed}', '--seed', seed])
        assert_as_alone(tmp_path / f'together-seed{seed}', tmp_path / f'alone-{seed}')
    weights = {(tmp_path / f'alone-{seed}/model.safetensors').read_bytes() for seed in '02'}
    assert len(weights) == 2, 'seeds differ'


def test_no_step_touches_the_environment(script, options, monkeypatch):
    """It is the process's: torch looks up variables in C while another seed's thread would change them, and crashes."""
    steps, told = threading.local(), []
    step, to_kwargs = EpochLoop.run, KwargsHandler.to_kwargs

    def run(*args):
        steps.on = True
        try:
            return step(*args)
        finally:
            steps.on = False
    monkeypatch.setattr(EpochLoop, 'run', run)
    monkeypatch.setattr(
        KwargsHandler, 'to_kwargs', lambda self: (told.append(getattr(steps, 'on', False)), to_kwargs(self))[1])
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    script('train', [*options, '--model', 'resnet20', '--epochs', '1', '--seeds', '0', '1'])
    assert told and not any(told)


@pytest.mark.parametrize('kd', ['bkd', 'krdistill', 'feature'])
def test_students_of_one_teacher(script, options, tmp_path, kd, capsys):
    argv = [*options, '--epochs', '2', '--student', 'resnet20', '--teacher', 'resnet20', '--kd', kd]
    script('distill', [*argv, '--experiment', 'together', '--seeds', '0', '1', '--seed', '7'])
    table = capsys.readouterr().out
    assert 'student resnet20, seed 0' in table and 'student resnet20, seed 1' in table
    assert 'mean' in table and 'standard deviation' in table
    teachers = list((tmp_path / 'teachers').iterdir())
    assert len(teachers) == 1, 'of --seed 7'
    for seed in '01':
        script('distill', [
            *argv, '--experiment', f'alone-{seed}', '--seed', seed, '--teacher-checkpoint', str(teachers[0])])
        assert_as_alone(tmp_path / f'together-seed{seed}', tmp_path / f'alone-{seed}')


def test_the_folder_repeats_its_run(script, options, tmp_path):
    """args.yaml is of the one seed, and the run can be gone on with alone."""
    argv = [*options, '--model', 'resnet20', '--epochs', '2']
    script('train', [*argv, '--experiment', 'together', '--seeds', '3', '4'])
    script('train', ['-c', str(tmp_path / 'together-seed4/args.yaml'), '--experiment', 'again'])
    assert_as_alone(tmp_path / 'together-seed4', tmp_path / 'again')


def test_without_a_name_each_seed_has_a_folder(script, options, tmp_path):
    script('train', [*options, '--model', 'resnet20', '--epochs', '1', '--seeds', '3', '4'])
    assert sorted(path.name.rpartition('-')[2] for path in tmp_path.iterdir()) == ['seed3', 'seed4']


@pytest.mark.parametrize('more', [
    [],
    ['--drop', '0.3', '--model-ema', '--model-ema-decay', '0.9', '--grad-accum-steps', '2', '--class-sampling',
     'progressive', '--mixup', '0.5'],
], ids=['plain', 'all'])
def test_interrupted_and_resumed(script, options, tmp_path, monkeypatch, more):
    argv = [*options, '--model', 'resnet20', '--epochs', '3', *more]
    script('train', [*argv, '--experiment', 'whole', '--seeds', '0', '1'])
    train_epoch, done = EpochLoop.run, []

    def train_and_stop(*args):
        result = train_epoch(*args)
        done.append(args[1])
        if len(done) > 2:  # in the second epoch of one of them
            raise KeyboardInterrupt
        return result
    monkeypatch.setattr(EpochLoop, 'run', train_and_stop)
    with pytest.raises(SystemExit) as stopped:
        script('train', [*argv, '--experiment', 'resumed', '--seeds', '0', '1'])
    assert stopped.value.code == 130
    monkeypatch.setattr(EpochLoop, 'run', train_epoch)
    script('train', [*argv, '--experiment', 'resumed', '--seeds', '0', '1', '--resume', 'auto'])
    for seed in '01':
        assert_as_alone(tmp_path / f'resumed-seed{seed}', tmp_path / f'whole-seed{seed}')


def test_one_that_fails_does_not_stop_the_others(script, options, tmp_path, ruin, capsys):
    ruin(1)
    with pytest.raises(SystemExit) as stopped:
        script('train', [*options, '--model', 'resnet20', '--experiment', 'x', '--seeds', '0', '1', '2'])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    error = told.err.strip().splitlines()[-1]
    assert error.startswith('train.py: error: seed 1: the loss became NaN or infinite in epoch 1, step 1')
    table = told.out.partition('\nin ')[0]
    assert all(row in table for row in ('resnet20, seed 0', 'resnet20, seed 2', 'standard deviation'))
    assert 'seed 1' not in told.out
    for seed in (0, 2):
        assert len(read_summary(tmp_path / f'x-seed{seed}/summary.csv')) == 3
        assert (tmp_path / f'x-seed{seed}/report.json').is_file()
    assert not (tmp_path / 'x-seed1').exists()


@pytest.mark.parametrize('argv, message', [
    (['--seeds', '1', '2', '1'], '--seeds: 1 is named twice'),
    (['--seeds', '1', '2', '--resume', 'x'], '--seeds does not go with --resume FOLDER'),
    (['--cuda-graph'], '--cuda-graph needs a CUDA GPU, and this runs on cpu'),
])
def test_what_does_not_go_together(script, options, capsys, argv, message):
    with pytest.raises(SystemExit) as stopped:
        script('train', [*options, '--model', 'resnet20', *argv])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_turns():
    """A run that draws goes on from its own numbers, whatever others draw; one that doesn't leaves the lock alone."""
    stop = threading.Event()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    turn, idle = Turn(stop), Turn(stop)
    drawn = []
    for _ in range(3):
        with turn:
            drawn.append(float(torch.rand(1)))
        torch.manual_seed(99)
        with idle:
            pass
    assert drawn == expected.tolist()
    assert _held(turn) and not _held(idle)
    idle.new_epoch()
    assert _held(idle), 'it has to show anew that it draws nothing'
    stop.set()
    with pytest.raises(Stopped):
        turn.__enter__()


def _held(turn):
    """Whether the generators are kept from other threads inside a step."""
    free = []

    def look():
        free.append(GENERATORS.acquire(blocking=False))
        if free[0]:
            GENERATORS.release()
    with turn:
        other = threading.Thread(target=look)
        other.start()
        other.join()
    return not free[0]


def test_so_many_at_a_time(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    assert [at_once(count, torch.device('cpu')) for count in (2, 5)] == [2, 3]
    assert [at_once(count, torch.device('cuda')) for count in (5, 40)] == [5, 16]


def test_nothing_that_may_wait_is_done_beside_a_recording(script, options, tmp_path, monkeypatch):
    """On a GPU an evaluation, or a teacher that is asked, may wait for the device, and spoil what another records."""
    seen, evaluate, ask = [], training.evaluate, TeacherBank.rows

    def look(name, function):
        def call(*args, **kwargs):
            seen.append((name, graph.RECORDING.locked()))
            return function(*args, **kwargs)
        return call
    monkeypatch.setattr(training, 'evaluate', look('evaluation', evaluate))
    monkeypatch.setattr(TeacherBank, 'rows', look('teacher', ask))
    for module in (build, jobs):
        monkeypatch.setattr(module, 'check_cuda_graph', lambda args, accelerator: None)
    monkeypatch.setattr(graph, 'record_cuda_graph', lambda function, *where: function)
    argv = [*options, '--student', 'resnet20', '--teacher', 'resnet20', '--color-jitter', '0', '--loader', 'resident']
    argv += ['--teacher-bank', str(tmp_path / 'bank'), '--seeds', '0', '1']
    script('distill', [*argv, '--experiment', 'plain', '--epochs', '1', '--warmup-epochs', '0'])
    assert {name for name, _ in seen} == {'evaluation', 'teacher'} and not all(locked for _, locked in seen)
    seen.clear()
    script('distill', [*argv, '--experiment', 'graphed', '--epochs', '1', '--warmup-epochs', '0', '--cuda-graph'])
    assert {name for name, _ in seen} == {'evaluation', 'teacher'} and all(locked for _, locked in seen)


def test_a_run_that_cannot_begin_leaves_nothing_of_the_others(script, options, tmp_path, monkeypatch, capsys):
    claim, claimed = RunFolder.claim, []

    def second_fails(folder, config):
        claimed.append(folder.path.name)
        if len(claimed) == 2:
            raise UserError('it is taken')
        return claim(folder, config)
    monkeypatch.setattr(RunFolder, 'claim', second_fails)
    with pytest.raises(SystemExit):
        script('train', [*options, '--model', 'resnet20', '--experiment', 'x', '--seeds', '1', '2'])
    assert 'it is taken' in capsys.readouterr().err and claimed == ['x-seed1', 'x-seed2']
    assert not (tmp_path / 'x-seed1').exists()
