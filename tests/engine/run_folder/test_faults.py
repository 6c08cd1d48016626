"""What the world does to a run: signals, a full disk, a killed worker, a dead process, another run in its folder."""
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

if not (hasattr(os, 'fork') and Path('/proc').is_dir()):
    pytest.skip('processes are forked, and found below /proc', allow_module_level=True)

BLANK = '''
import matplotlib.figure
from PIL import Image
matplotlib.figure.Figure.savefig = lambda figure, path, **_: Image.new('L', (8, 8)).save(path, 'PNG')
'''
SLOW = '''
import time
from timm_ltkd.engine.epoch.loop import EpochLoop
train_epoch = EpochLoop.run
def slowly(*args):
    time.sleep(1)
    return train_epoch(*args)
EpochLoop.run = slowly
'''
GO_ON = '; the same command with --resume auto goes on from the last checkpoint, if there is one'
MOST = 240  # seconds; machines that are busy with other things are slow


class Started:
    """A process of a script, whose messages go to a file."""

    def __init__(self, ask, pid, log):
        self._ask, self.pid, self.log = ask, pid, log

    @property
    def said(self):
        return self.log.read_text(errors='replace').splitlines() if self.log.exists() else []

    def until(self, words):
        """Wait until it says so."""
        deadline = time.monotonic() + MOST
        while not any(words in line for line in self.said):
            assert time.monotonic() < deadline, self.said[-5:]
            time.sleep(0.01)
        return self

    def kill(self, number):
        os.kill(self.pid, number)
        return self

    def children(self):
        return [int(pid) for pid in Path(f'/proc/{self.pid}/task/{self.pid}/children').read_text().split()]

    def end(self):
        """Its exit status."""
        return self._ask({'wait': self.pid})


@pytest.fixture(scope='module')
def warm(environment):
    """`warm(script, argv, before='')` starts a script in a process that has imported everything."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name('warm_start.py'))], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(wanted):
        server.stdin.write(json.dumps(wanted) + '\n')
        server.stdin.flush()
        return int(server.stdout.readline())
    started = []

    def start(script, argv, log, before=''):
        before = BLANK + before
        started.append(Started(ask, ask({'script': script, 'argv': argv, 'log': str(log), 'before': before}), log))
        return started[-1]
    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    server.stdin.close()
    server.wait()


@pytest.fixture
def go(warm, options, tmp_path):
    """`go(script, *more, run='run', before='')` with the options of a small run."""
    counts = iter(range(1000))

    def start(script, *more, run='run', before=''):
        argv = [*options, '--output', str(tmp_path / 'out'), '--experiment', run, *more]
        return warm(script, argv, tmp_path / f'log{next(counts)}', before)
    return start


@pytest.fixture(scope='module')
def finished():
    """Folders of undisturbed runs, by what they were asked for."""
    return {}


@pytest.fixture
def whole(go, finished, tmp_path, tmp_path_factory):
    """Make an undisturbed run, and give what compares another with it."""
    def make(script, *more):
        if more not in finished:
            finished[more] = tmp_path_factory.mktemp('whole')
            assert go(script, *more, '--output', str(finished[more]), run='whole').end() == 0

        def check(run='run', seeds=('',)):
            for seed in seeds:
                folders = finished[more] / f'whole{seed}', tmp_path / 'out' / f'{run}{seed}'
                for name in ('model.safetensors', 'summary.csv', 'per_class.csv'):
                    assert len({(folder / name).read_bytes() for folder in folders}) == 1, name
            assert not [path for path in (tmp_path / 'out').rglob('.*') if path.name != '.lock']
        return check
    return make


def ends_with(process, status, line):
    """It ends so, says one line, and leaves no process behind."""
    assert process.end() == status, process.said
    assert process.said[-1] == line
    assert not any('Traceback' in said for said in process.said)
    deadline = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)  # the group is its own
            time.sleep(0.05)
        pytest.fail('a loader worker lives on')


TRAIN = ['--model', 'resnet20']
DISTILL = ['--student', 'resnet20', '--teacher', 'resnet20', '--loader', 'resident', '--color-jitter', '0']


@pytest.mark.parametrize('number, status, told', [
    (signal.SIGTERM, 143, 'stopped by SIGTERM'), (signal.SIGINT, 130, 'interrupted'),
    (signal.SIGKILL, -signal.SIGKILL, None)], ids=['SIGTERM', 'SIGINT', 'SIGKILL'])
def test_a_signal_stops_at_once_and_the_run_goes_on(go, whole, number, status, told):
    same = whole('train', *TRAIN)
    process = go('train', *TRAIN, '--loader', 'timm', '--workers', '1', before=SLOW).until('epoch 1/3')
    begun = time.monotonic()
    ends_with(process.kill(number), status, f'train.py: {told}{GO_ON}' if told else process.said[-1])
    assert time.monotonic() - begun < 20
    assert go('train', *TRAIN, '--loader', 'timm', '--resume', 'auto').end() == 0
    same()


def test_a_signal_stops_all_seeds_and_the_bank(go, whole, tmp_path):
    more = [*DISTILL, '--seeds', '0', '1', '--teacher-bank', str(tmp_path / 'bank')]
    same = whole('distill', *more)
    process = go('distill', *more, before='import torch; torch.get_num_threads = lambda: 2' + SLOW)
    process.until('seed 0: epoch 1/3')
    ends_with(process.kill(signal.SIGTERM), 143, f'distill.py: stopped by SIGTERM{GO_ON}')
    assert go('distill', *more, '--resume', 'auto').end() == 0
    same(seeds=('-seed0', '-seed1'))


def test_signals_after_the_first_change_nothing(go):
    before = SLOW + '''
import signal, os, time
from timm_ltkd.engine import fit
def again(loader):
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        time.sleep(0.1)
fit.stop_workers = again
'''
    process = go('train', *TRAIN, before=before).until('epoch 1/3')
    ends_with(process.kill(signal.SIGINT), 130, f'train.py: interrupted{GO_ON}')


def test_what_does_not_end_is_cut_off(go):
    before = SLOW + '''
import threading
from timm_ltkd.cli import stop
from timm_ltkd.engine import fit
stop.CLEAN_UP = 0.5
fit.stop_workers = lambda loader: threading.Event().wait()
'''
    process = go('train', *TRAIN, before=before).until('epoch 1/3').kill(signal.SIGTERM)
    assert process.end() == 143


LIMIT = '''
import resource
from timm_ltkd.engine import fit
{name} = fit.{name}
calls = []
def {name}_of_a_full_disk(*args, **kwargs):
    calls.append(args)
    if len(calls) == {number}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return {name}(*args, **kwargs)
fit.{name} = {name}_of_a_full_disk
'''
REFUSE = '''
import errno, os
replace, times = os.replace, []
def refuse(aside, path):
    if str(path).endswith('{file}'):
        times.append(path)
        if len(times) == {number}:
            raise OSError(errno.{error}, os.strerror(errno.{error}), aside)
    return replace(aside, path)
os.replace = refuse
'''


@pytest.mark.parametrize('before, file, why', [
    (LIMIT.format(name='save_checkpoint', number=2), 'last/checkpoint-000002.pt', 'File too large'),
    (LIMIT.format(name='finish', number=1), None, 'File too large'),  # safetensors says nothing of its file
    *((REFUSE.format(file=file, number=number, error=error), file, os.strerror(getattr(errno, error)))
      for file, number, error in (
          ('summary.csv', 2, 'ENOSPC'), ('config.json', 1, 'EDQUOT'), ('report.json', 1, 'EROFS'),
          ('curves.png', 1, 'ENOSPC'))),
], ids=['checkpoint', 'weights', 'summary', 'config', 'report', 'figure'])
def test_a_full_disk(go, whole, tmp_path, before, file, why):
    same = whole('train', *TRAIN)
    process = go('train', *TRAIN, before=before)
    where = 'a file of this run' if file is None else tmp_path / 'out/run' / file
    ends_with(process, 2, f'train.py: error: {where}: {why}; make room, or see to its rights{GO_ON}')
    resumed = go('train', *TRAIN, '--resume', 'auto')
    assert resumed.end() == 0
    assert any('resuming' in said for said in resumed.said), 'the last good checkpoint was kept'
    same()


def test_where_nothing_may_be_written(go, tmp_path):
    process = go('train', *TRAIN, before=REFUSE.format(file='run.json', number=1, error='EROFS'))
    ends_with(process, 2, f'train.py: error: {tmp_path}/out/run cannot be written (Read-only file system); choose '
              'another --output')
    assert not (tmp_path / 'out/run').exists()


def test_a_killed_loader_worker(go, whole):
    more = [*TRAIN, '--loader', 'timm', '--workers', '1']
    same = whole('train', *more)
    process = go('train', *more, before=SLOW).until('epoch 1/3')
    os.kill(process.children()[0], signal.SIGKILL)
    assert process.end() == 2, process.said
    assert process.said[-1].startswith('train.py: error: a loader worker killed by signal: Killed: there may be too')
    assert process.said[-1].endswith(GO_ON) and not any('Traceback' in said for said in process.said)
    assert go('train', *more, '--resume', 'auto').end() == 0
    same()


def test_the_second_run_in_a_folder_is_refused(go, whole, tmp_path):
    same = whole('train', *TRAIN)
    first = go('train', *TRAIN, before=SLOW).until('epoch 1/3')
    impatient = 'from timm_ltkd.engine.run_folder import folder; folder.PATIENCE = 0.2'
    for how in (['--resume', 'auto'], ['--overwrite']):
        second = go('train', *TRAIN, *how, before=impatient)
        assert second.end() == 2
        assert second.said[-1] == (
            f'train.py: error: {tmp_path}/out/run is being trained by another process; wait until it has ended, or '
            'choose another --experiment')
    assert first.end() == 0
    same()


@pytest.mark.parametrize('killed', [False, True])
def test_one_of_two_runs_trains_the_teacher_of_both(go, whole, killed):
    same = whole('distill', *DISTILL)
    look = 'from timm_ltkd.engine import teachers; teachers._LOOK_AGAIN = 0.1'
    first = go('distill', *DISTILL, run='first', before=SLOW).until('epoch 1/3')
    second = go('distill', *DISTILL, run='second', before=look).until('another run trains it')
    if killed:
        first.kill(signal.SIGKILL)
        assert first.end() == -signal.SIGKILL
        first = go('distill', *DISTILL, run='first', before=look)
    assert first.end() == second.end() == 0
    said = first.said + second.said
    assert sum('epoch 3/3' in line for line in said) == 3, 'a teacher and two students'
    assert any('resuming' in line for line in said) == killed
    for run in ('first', 'second'):
        same(run)


# Two processes, as any launcher starts them; this one looks after nobody.

TWO = '''
import os
os.environ |= {{
    'RANK': '{rank}', 'LOCAL_RANK': '{rank}', 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': 'localhost',
    'MASTER_PORT': '{port}', 'ACCELERATE_USE_CPU': 'true'}}
from timm_ltkd.engine.processes import launch, peers
peers.GRACE = {grace}
create = launch.create_accelerator
def create_accelerator(*args):
    accelerator = create(*args)
    assert accelerator.num_processes == 2
    return accelerator
launch.create_accelerator = create_accelerator
'''


@pytest.fixture
def pair(go):
    """`pair(*more, before={rank: code})`: both processes of one run of train.py, in the middle of its epochs."""
    def start(*more, before=(), grace=2., slow=SLOW):
        with socket.create_server(('localhost', 0)) as server:
            port = server.getsockname()[1]
        both = [
            go('train', *TRAIN, *more, before=TWO.format(rank=rank, port=port, grace=grace) + slow
               + dict(before).get(rank, '')) for rank in (0, 1)]
        both[0].until('epoch 1/')
        return both
    return start


@pytest.mark.parametrize('dead', [0, 1])
def test_where_a_process_is_killed_the_other_says_so_and_ends(pair, dead):
    both = pair()
    both[dead].kill(signal.SIGKILL)
    begun = time.monotonic()
    who = 'train.py, process 1' if dead == 0 else 'train.py'
    ends_with(both[1 - dead], 2, f'{who}: error: process {dead} of 2 has died (killed, perhaps for want of memory)'
              f'{GO_ON}')
    assert time.monotonic() - begun < 30
    assert both[dead].end() == -signal.SIGKILL


def test_a_process_that_waits_for_a_dead_one_for_ever_is_ended(pair):
    hang = '''
import threading
from timm_ltkd.engine.epoch.loop import EpochLoop
wait, epochs = EpochLoop.run, []
def forever(*args):
    epochs.append(args)
    return wait(*args) if len(epochs) == 1 else threading.Event().wait()
EpochLoop.run = forever
'''
    both = pair(before={0: hang}, grace=0.5)
    time.sleep(0.5)
    both[1].kill(signal.SIGKILL)
    assert both[0].end() == 2
    assert both[0].said[-1] == 'process 1 of 2 has died (killed, perhaps for want of memory); process 0 ends'


def test_where_one_is_stopped_both_stop(pair):
    both = pair()
    both[1].kill(signal.SIGTERM)
    assert [process.end() for process in both] == [143, 143], both[0].said
    assert both[0].said[-1] == f'train.py: stopped by SIGTERM{GO_ON}'
    assert not any('stopped' in line or 'Traceback' in line for line in both[1].said), 'one line is enough'


def test_where_one_fails_the_other_says_why(pair):
    fail = '''
from timm_ltkd.engine.epoch.loop import EpochLoop
from timm_ltkd.errors import UserError
train, epochs = EpochLoop.run, []
def fail(*args):
    epochs.append(args)
    if len(epochs) == 3:
        raise UserError("cannot read image 'x.png'")
    return train(*args)
EpochLoop.run = fail
'''
    both = pair(before={1: fail})
    assert [process.end() for process in both] == [2, 2]
    assert both[1].said[-1] == "train.py, process 1: error: cannot read image 'x.png'"
    assert both[0].said[-1].startswith("train.py: error: process 1 of 2 failed: cannot read image 'x.png'")


def test_an_honest_process_may_be_slow(pair):
    late = '''
from timm_ltkd.engine import training
import time
evaluate = training.Training.evaluate
def slowly(*args, **how):
    time.sleep(3)
    return evaluate(*args, **how)
training.Training.evaluate = slowly
'''
    both = pair('--epochs', '2', before={1: late}, grace=0.2, slow='')
    assert [process.end() for process in both] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize('what', ['a rank is killed', 'the launcher is stopped'])
def test_under_accelerate_launch(start, launcher, options, tmp_path, what):
    argv = [*options, *TRAIN, '--epochs', '200', '--output', str(tmp_path), '--experiment', 'run']
    process = start('train.py', argv, launcher())
    said = []
    for line in process.stdout:
        said.append(line)
        if 'epoch 2/200' in line:
            break
    ranks = [int(pid) for pid in Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()]
    ranks = [pid for pid in ranks if b'train.py' in Path(f'/proc/{pid}/cmdline').read_bytes()]
    assert len(ranks) == 2
    os.kill(ranks[1] if what == 'a rank is killed' else process.pid,
            signal.SIGKILL if what == 'a rank is killed' else signal.SIGTERM)
    begun = time.monotonic()
    rest = process.communicate(timeout=60)[0]
    assert time.monotonic() - begun < 60
    told = 'process 1 of 2 has died' if what == 'a rank is killed' else 'train.py: stopped by SIGTERM'
    assert told in rest and 'train.py", line' not in rest
    assert not any(Path(f'/proc/{pid}').exists() for pid in ranks)
