"""Tiny long-tailed image folders, and the three scripts run on them inside this process or in one of their own."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
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


@pytest.fixture(scope='session')
def lists(images, tmp_path_factory):
    """Options of the 13, 7 and 3 training and the 11 validation images, by lists."""
    folder, options = tmp_path_factory.mktemp('lists'), ['--data-dir', str(images)]
    for split in ('train', 'val'):
        files = sorted((images / split).glob('*/*.png'))
        labels = {'ant': 2, 'bee': 0, 'cat': 1}  # not the order of the folders
        lines = [f'{file.relative_to(images)} {labels[file.parent.name]}\n' for file in files]
        (folder / f'{split}.txt').write_text(''.join(lines))
        options += [f'--{split}-list', str(folder / f'{split}.txt')]
    return options


@pytest.fixture(scope='session')
def broken():
    return {('train', 'bee/002.png'), ('train', 'ant/010.png'), ('val', 'cat/001.png')}


@pytest.fixture(scope='session')
def spoiled(images, broken, tmp_path_factory):
    """A data folder with the same images, those of `broken` cut off."""
    folder = tmp_path_factory.mktemp('spoiled') / 'data'
    shutil.copytree(images, folder)
    for split, name in broken:
        content = (folder / split / name).read_bytes()
        (folder / split / name).write_bytes(content[:len(content) // 2])
    return folder


@pytest.fixture(scope='session')
def shards(tmp_path_factory, write_shards):
    """The same images in Parquet and tar files: 23 training images in five shards, 11 validation images in two."""
    root, rng = tmp_path_factory.mktemp('streams'), np.random.RandomState(0)
    for split, counts, sizes in (('train', (13, 7, 3), (6, 2, 7, 3, 5)), ('validation', (3, 4, 4), (5, 6))):
        labels = rng.permutation(np.repeat(np.arange(3), counts))
        pixels = [rng.normal(60 + 60 * label, 40, (8, 8, 3)).clip(0, 255).astype(np.uint8) for label in labels]
        for kind in ('parquet', 'tar'):
            write_shards(kind, root / kind, split, [Image.fromarray(image) for image in pixels], labels, sizes)
    return root


@pytest.fixture(scope='session')
def options(images):
    """Options of a training run that takes less than a second."""
    return [
        '--dataset', '', '--data-dir', str(images), '--img-size', '8', '--workers', '0', '--epochs', '3', '-b', '4',
        '--lr', '0.05', '--warmup-epochs', '0', '--train-crop-mode', 'pad', '--crop-padding', '1']


@pytest.fixture(scope='module')
def train_once(options, tmp_path_factory, fresh_accelerate):
    """`train_once('resnet20', *options)`: the folder of a run of an epoch, for the fixtures of a module."""
    def train(model, *more):
        output = tmp_path_factory.mktemp(model)
        run.train([*options, '--epochs', '1', '--model', model, *more, '--output', str(output), '--experiment', 'run'])
        fresh_accelerate()
        return output / 'run'
    return train


@pytest.fixture(scope='module')
def teacher(train_once):
    """The folder of a trained resnet20."""
    return train_once('resnet20')


@pytest.fixture(autouse=True)
def _fresh_accelerate(fresh_accelerate):
    yield
    fresh_accelerate()


@pytest.fixture
def script(tmp_path, fresh_accelerate):
    """Call a script's function inside this process: `script('train', [...])`; its output folder is `tmp_path`."""
    def call(name, argv, **where):
        fresh_accelerate()
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


@pytest.fixture
def ruin(monkeypatch):
    """`ruin(seed)`: the network of this seed is NaN before its first step."""
    def of_seed(seed):
        train_epoch = EpochLoop.run

        def train_and_ruin(*args):
            if args[0].args.seed == seed:
                next(args[0].task.parameters()).data.fill_(torch.nan)
            return train_epoch(*args)
        monkeypatch.setattr(EpochLoop, 'run', train_and_ruin)
    return of_seed


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
