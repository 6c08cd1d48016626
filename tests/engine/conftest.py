"""Tiny long-tailed image folders, and the three scripts run on them inside this process or in one of their own."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from timm_ltkd.cli import run
from timm_ltkd.engine.epoch.loop import EpochLoop

ROOT = Path(__file__).resolve().parents[2]
TRAIN_SIZES = {'ant': 13, 'bee': 7, 'cat': 3}  # 23: two processes with 4 each leave 7 images for the last batch
VAL_SIZES = {'ant': 3, 'bee': 4, 'cat': 4}  # 11: the ranks' shares differ


def write_images(folder, train_sizes, val_sizes, side=8):
    """Image folders train/ and val/: noise around a grey level that tells the class."""
    rng = np.random.RandomState(0)
    for split, sizes in (('train', train_sizes), ('val', val_sizes)):
        for label, (name, size) in enumerate(sizes.items()):
            (folder / split / name).mkdir(parents=True)
            for i in range(size):
                pixels = rng.normal(60 + 60 * label, 40, (side, side, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f'{i:03d}.png')
    return folder


@pytest.fixture(scope='session')
def make_images():
    """`write_images`, for a test that wants its own."""
    return write_images


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """A data folder with 13, 7 and 3 training and 11 validation images of 8 × 8 pixels."""
    return write_images(tmp_path_factory.mktemp('images'), TRAIN_SIZES, VAL_SIZES)


@pytest.fixture
def options(images):
    """Options of a training run that takes about a second."""
    return [
        '--dataset', '', '--data-dir', str(images), '--img-size', '8', '--workers', '0', '--epochs', '3', '-b', '4',
        '--lr', '0.05', '--warmup-epochs', '0', '--train-crop-mode', 'pad', '--crop-padding', '1']


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps its precision and processes for the life of a process; each test starts anew."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def script(tmp_path):
    """Call a script's function inside this process: `script('train', [...])`; its output folder is `tmp_path`."""
    def call(name, argv, **where):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        output = [] if name == 'validate' else ['--output', str(where.get('output', tmp_path))]
        getattr(run, name)([*argv, *output])
    return call


@pytest.fixture
def interrupt(monkeypatch):
    """`interrupt(epochs)`: the next training stops when that many epochs are done and one more is trained on."""
    def stop_after(epochs):
        train_epoch = EpochLoop.run

        def train_and_stop(*args):
            result = train_epoch(*args)
            if args[1] == epochs:
                monkeypatch.setattr(EpochLoop, 'run', train_epoch)
                raise KeyboardInterrupt
            return result
        monkeypatch.setattr(EpochLoop, 'run', train_and_stop)
    return stop_after


@pytest.fixture(scope='session')
def environment():
    """Of processes that tests start: one thread, no hub, this checkout's package."""
    return os.environ | {
        'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': str(ROOT), 'MPLBACKEND': 'Agg',
        'ACCELERATE_USE_CPU': 'true', 'CUDA_VISIBLE_DEVICES': ''}


@pytest.fixture(scope='session')
def launcher():
    """`launcher(n)`: the words before a script that start it in n processes, which `--num_processes` alone does not."""
    def words(processes=2):
        several = ['--multi_gpu', '--main_process_port', '0'] if processes > 1 else []
        return [sys.executable, '-m', 'accelerate.commands.launch', *several, '--num_processes', str(processes),
                '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no']
    return words


@pytest.fixture(scope='session')
def probe(environment, launcher):
    """`probe(jobs, out, n)` runs {name: [script, arguments]} in n processes: what each recorded, and the log.

    What is recorded, worker_probe.py says.
    """
    def run_jobs(jobs, out, processes=2):
        (out / 'jobs.json').write_text(json.dumps(jobs))
        done = subprocess.run(
            [*launcher(processes), str(ROOT / 'tests/engine/worker_probe.py'), str(out / 'jobs.json'), str(out)],
            env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        records = [torch.load(out / f'rank{rank}.pt', weights_only=False) for rank in range(processes)]
        assert {record[job]['world'] for record in records for job in jobs} == {processes}
        return records, done.stderr
    return run_jobs


@pytest.fixture(scope='session')
def start(environment):
    """Start a script of this checkout as a process of its own: `start('distill.py', [...])`."""
    def popen(name, argv, launcher=(sys.executable,), **env):
        return subprocess.Popen(
            [*launcher, str(ROOT / name), *argv], env=environment | env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
    return popen
