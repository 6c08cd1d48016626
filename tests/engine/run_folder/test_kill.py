"""Real processes, killed at random moments and started again, leave what an uninterrupted run leaves."""
import random
import signal
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='a system with signals')
EPOCHS = 8


@pytest.fixture(autouse=True, scope='module')
def no_plots():
    """A report comes with its figures here."""


@pytest.fixture
def argv(images):
    return [
        '--dataset', '', '--data-dir', str(images), '--img-size', '8', '--epochs', str(EPOCHS), '-b', '4',
        '--lr', '0.05', '--warmup-epochs', '1', '--train-crop-mode', 'pad', '--crop-padding', '1',
        '--student', 'resnet20', '--teacher', 'resnet20', '--drop', '0.1', '--model-ema', '--model-ema-decay', '0.9',
        '--experiment', 'run', '--resume', 'auto']


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def assert_same_runs(one, other):
    assert files_below(one) == files_below(other), 'and no half-written file is left'
    for path in files_below(one):
        if path.endswith(('model.safetensors', 'summary.csv', 'per_class.csv')):
            assert (one / path).read_bytes() == (other / path).read_bytes(), path


def kill_after(process, line, seconds):
    """SIGKILL some seconds after the process has said a line; whether it was still alive then."""
    for said in process.stdout:
        if line in said:
            break
    time.sleep(seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


@pytest.mark.slow
def test_killed_while_the_report_is_written(start, script, argv, tmp_path):
    rng = random.Random(3)
    argv = [*argv, '--workers', '0']
    script('distill', argv, output=tmp_path / 'whole')
    for _ in range(4):
        kill_after(start('distill.py', [*argv, '--output', str(tmp_path / 'killed')]), f'epoch {EPOCHS}/{EPOCHS}',
                   rng.uniform(0, 1.))
    script('distill', argv, output=tmp_path / 'killed')
    assert_same_runs(tmp_path / 'whole', tmp_path / 'killed')


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(4))
def test_killed_at_any_moment_until_it_is_done(start, script, argv, tmp_path, seed):
    rng = random.Random(seed)
    script('distill', [*argv, '--workers', '0'], output=tmp_path / 'whole')
    kills = 0
    for _ in range(8):
        workers = str(rng.randint(0, 2))
        process = start('distill.py', [*argv, '--output', str(tmp_path / 'killed'), '--workers', workers])
        if not kill_after(process, rng.choice(['classes by training', 'teacher', 'epoch']), rng.uniform(0, 2.5)):
            break
        kills += 1
    assert kills
    script('distill', [*argv, '--workers', '0'], output=tmp_path / 'killed')
    assert_same_runs(tmp_path / 'whole', tmp_path / 'killed')
