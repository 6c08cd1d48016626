"""Whole runs on an emulated GPU: nothing lies on the wrong device, and the host waits once an epoch.

They end as on the CPU, but for rounding: some of what is computed is computed otherwise on a GPU.
"""
import csv
import math
from contextlib import nullcontext

import pytest
import torch
from emulation import emulated_gpu
from safetensors.torch import load_file

from timm_ltkd.cli import run
from timm_ltkd.distill import list_losses, list_methods
from timm_ltkd.engine.epoch.loop import EpochLoop

NETWORK = '--model-kwargs channels=(4,8,8)'.split()
AT_THE_END = {('copy from the GPU', 'watch.py'): 1}
EXTRAS = '--clip-grad 1 --model-ema --model-ema-warmup --sched-on-updates --grad-accum-steps 2'.split()


@pytest.fixture(scope='module')
def teacher(train_once):
    return train_once('resnet20', *NETWORK)


@pytest.fixture
def both(script, options, teacher, monkeypatch, tmp_path):
    """Runs a script on both devices, and compares; the waits of each epoch on the GPU."""
    epochs, train_epoch, emulated = [], EpochLoop.run, []

    def noted(loop, *args):
        if not emulated:
            return train_epoch(loop, *args)
        with emulated[0].noted() as waits:
            result = train_epoch(loop, *args)
        epochs.append(dict(waits))
        return result

    def run_both(name, *argv):
        if name == 'distill':
            argv = ['--teacher-checkpoint', str(teacher), '--student', 'resnet20', *argv]
        else:
            argv = ['--model', 'resnet20', *argv]
        argv = [*options, *NETWORK, '--epochs', '2', '--lr', '0.01', '--log-interval', '1', *argv]
        script(name, [word.replace('OUT', str(tmp_path / 'cpu_bank')) for word in [*argv, '--experiment', 'cpu']])
        with emulated_gpu() as gpu:
            emulated.append(gpu)
            script(name, [word.replace('OUT', str(tmp_path / 'gpu_bank')) for word in [*argv, '--experiment', 'gpu']])
            emulated.clear()
        runs = sorted(path.parent.name for path in tmp_path.glob('*/model.safetensors'))
        for cpu, on_gpu in zip(runs[:len(runs) // 2], runs[len(runs) // 2:], strict=True):
            assert_alike(tmp_path / cpu, tmp_path / on_gpu)
        return epochs
    monkeypatch.setattr(EpochLoop, 'run', noted)
    return run_both


def assert_alike(cpu, gpu):
    rows = [list(csv.DictReader((run / 'summary.csv').open())) for run in (cpu, gpu)]
    for own, its in zip(*rows, strict=True):
        for key in own:
            if key.startswith(('train_', 'lr')):
                assert math.isclose(float(own[key]), float(its[key]), rel_tol=1e-3, abs_tol=1e-5), key
    states = first_epoch(cpu), exported(cpu), exported(gpu)
    trained = [name for name in states[0] if name in states[1] and name.endswith(('.weight', '.bias'))]
    before, own, its = (torch.cat([state[name].double().flatten() for name in trained]) for state in states)
    assert (own - its).norm() < 1e-3 * (own - before).norm()  # of what the last epoch has moved


def exported(run):
    return load_file(run / 'model.safetensors')


def first_epoch(run):
    state = torch.load(run / 'last/checkpoint-000001.pt', weights_only=True)['model']
    return {name.removeprefix('student.'): value for name, value in state.items()}


@pytest.mark.parametrize('kd', list_methods())
def test_methods(both, kd):
    assert both('distill', '--kd', kd, *EXTRAS)[-1] == AT_THE_END


@pytest.mark.parametrize('loss', list_losses())
def test_losses(both, loss):
    assert both('train', '--loss', loss)[-1] == AT_THE_END


@pytest.mark.parametrize('argv', [
    ['--loader', 'resident', '--color-jitter', '0', '--hflip', '0.5'],
    ['--loader', 'resident', '--color-jitter', '0', '--reprob', '0.5'],
    ['--loader', 'resident', '--color-jitter', '0', '--train-crop-mode', 'rrc', '--hflip', '0.5'],
    ['--loader', 'timm', '--workers', '1'],
    ['--mixup', '0.2', '--cutmix', '1', '--loss', 'focal'],
    ['--clip-grad', '0.1', '--clip-mode', 'agc'],
    ['--clip-grad', '0.1', '--clip-mode', 'value'],
    ['--opt', 'adamw', '--layer-decay', '0.8'],
    ['--class-sampling', 'class', '--smoothing', '0.1'],
    ['--loss', 'weighted_ce', '--loss-kwargs', 'deferred_epochs=1', '--drop', '0.1'],
    ['--sched', 'plateau', '--holdout', '0.3'],
], ids=' '.join)
def test_what_else_a_step_may_hold(both, argv):
    assert both('train', *argv)[-1] == AT_THE_END


@pytest.mark.parametrize('argv', [
    ['--kd', 'krdistill', '--img-size', '12', '--teacher-resize', 'device'],
    ['--kd', 'bkd', '--teacher-dtype', 'bfloat16'],
    ['--kd', 'kd', '--kd-kwargs', 'standardize=True', '--loader', 'resident', '--color-jitter', '0'],
], ids=' '.join)
def test_teachers(both, argv):
    assert both('distill', *argv)[-1] == AT_THE_END


@pytest.mark.parametrize('kd', ['bkd', 'krdistill'])
def test_bank(both, kd):
    """What is new is read back at the end of an epoch; where all is known, nothing is."""
    bank = ['--teacher-bank', 'OUT', '--loader', 'resident', '--color-jitter', '0', '--kd', kd]
    assert sum(both('distill', *bank)[-1].values()) <= 4
    assert both('distill', *bank, '--overwrite')[-1] == AT_THE_END


@pytest.mark.parametrize('argv', [
    ['--loader', 'resident', '--color-jitter', '0'],
    ['--loader', 'timm', '--workers', '1', '--kd', 'krdistill'],  # one after another
], ids=' '.join)
def test_several_seeds(both, argv):
    assert both('distill', '--seeds', '0', '1', *argv)[-1] == AT_THE_END


def test_second_stages(both, teacher):
    for stage in ('crt', 'lws', 'head'):
        both('train', '--stage', stage, '--initial-checkpoint', str(teacher), '--overwrite')


def test_a_finished_run(script, options, teacher, tmp_path, images, capsys):
    """Figures, mended logits, predictions and an exported network."""
    said = {}
    for device in ('cpu', 'gpu'):
        with emulated_gpu() if device == 'gpu' else nullcontext():
            capsys.readouterr()
            script('validate', [str(teacher), '--tau-norm', '0.5', '--logit-adjust', '1'])
            script('validate', [str(teacher), '--predict', str(images)])
            run.export([str(teacher), '--logit-adjust', '1', '--export-dir', str(tmp_path / device)])
        said[device] = capsys.readouterr().out.replace(str(tmp_path / device), '')
    assert said['cpu'] == said['gpu']
    torch.testing.assert_close(exported(tmp_path / 'cpu'), exported(tmp_path / 'gpu'))
