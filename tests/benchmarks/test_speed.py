"""The benchmarks of speed: that baseline and ours compute the same, and that each script runs."""
import argparse
import copy
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import timm_ltkd
from timm_ltkd.distill import balanced_kd_loss, cross_entropy_loss

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'
CPU = torch.device('cpu')


@pytest.fixture
def scripts(monkeypatch, fresh_accelerate):
    """Imports a file of the folder as it is imported by the scripts in it; Accelerate starts anew."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ('ACCELERATE_MIXED_PRECISION', 'ACCELERATE_USE_CPU'):
        monkeypatch.setenv(name, 'no')  # so that they are put back
    names = ('measure', 'plain', 'ours', 'steps', 'epoch', 'loaders', 'seeds', 'accuracy')
    fresh_accelerate()
    yield importlib.import_module
    fresh_accelerate()
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return [timm.create_model('resnet20', num_classes=5) for _ in range(2)]


def test_pixels_are_as_many_as_cifar_has(scripts):
    train, test = scripts('plain').random_pixels()
    assert (len(train), len(test)) == (10847, 10000)
    counts = timm_ltkd.data.long_tail_counts(100, 500, 100, 'exp')
    assert torch.bincount(torch.tensor(train.targets)).tolist() == list(counts)


def test_both_losses_are_the_same(scripts):
    plain, counts = scripts('plain'), [500, 200, 50, 10, 1]
    z_s, z_t = torch.randn(2, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.arange(8) % 5
    weights = timm_ltkd.ClassPrior(counts).effective_number_weights()
    expected = cross_entropy_loss(z_s, target) + balanced_kd_loss(z_s, z_t, weights)
    found = plain.bkd_loss(z_s, z_t, target, plain.class_weights(counts))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_both_epochs_begin_with_the_same_loss_and_gradient(scripts, networks):
    plain, ours = scripts('plain'), scripts('ours')
    student, teacher = networks
    train, test = plain.random_pixels(classes=5, largest=20, of_test=1)
    data = ours.create_data(train, test)
    training = ours.create_training(ours.start(CPU, 'bf16'), data, student, teacher.eval())
    weights = plain.class_weights(data.splits.train.class_counts)
    baseline = plain.PlainTraining(*copy.deepcopy((student, teacher)), weights)
    batch = next(iter(plain.create_loaders(train, test, workers=0)[0]))
    for exact, tolerance in ((True, 1e-10), (False, 0.2)):
        for value, expected in zip(
                ours.loss_and_gradient(training, *batch, exact=exact),
                plain.loss_and_gradient(baseline, *batch, exact=True), strict=True):
            assert float((value.double() - expected).norm() / expected.norm()) < tolerance


def test_the_baseline_trains_and_evaluates(scripts, networks):
    plain = scripts('plain')
    student, teacher = networks
    train, test = plain.random_pixels(classes=5, largest=4, of_test=2)
    training = plain.PlainTraining(student, teacher.eval(), plain.class_weights([4, 2, 1, 1, 1]))
    loaders = plain.create_loaders(train, test, workers=0)
    batch = next(iter(loaders[0]))
    expected, gradient = plain.loss_and_gradient(training, *batch, exact=False)
    before = torch.nn.utils.parameters_to_vector(student.parameters()).detach()
    assert training.train_epoch([batch]) == float(expected)
    after = torch.nn.utils.parameters_to_vector(student.parameters()).detach()
    torch.testing.assert_close(after, before - 0.1 * (gradient + 2e-4 * before))  # SGD's first step
    loss, accuracy = training.evaluate(loaders[1])
    assert loss > 0 and accuracy.shape == (5,) and {*accuracy} <= {0., 0.5, 1.}


def test_medians_are_of_turns_but_the_first(scripts, monkeypatch):
    measure, clock, order = scripts('measure'), [0.], []

    def call(name, seconds):
        durations = iter(seconds)

        def run():
            order.append(name)
            clock[0] += next(durations)
        return run
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: clock[0])
    calls = {'a': call('a', [100, 1, 5, 3]), 'b': call('b', [100, 2, 2, 50])}
    assert measure.in_turns(calls, 3, CPU) == {'a': 3., 'b': 2.}
    assert order == ['a', 'b'] * 4


def test_waits_are_counted_but_those_of_the_loader(scripts):
    measure = scripts('measure')

    class Loader:
        def __iter__(self):
            for i in range(3):
                yield torch.tensor([i, torch.tensor(i).item()])

    def epoch():
        for batch in measure.Uncounted(Loader()):
            batch.sum().item()
            batch.nonzero()
    assert measure.count_waits(epoch, CPU) == 6


def test_deviations_are_relative_to_the_baseline_in_float64(scripts):
    def plain(exact):
        return [torch.tensor([3., 4.], dtype=torch.float64)] if exact else [torch.tensor([3., 4.5])]

    def ours(exact):
        return plain(True) if exact else [torch.tensor([3.05, 4.])]
    assert scripts('measure').parity(plain, ours) == ['0e+00', '1e-01', '1e-02']


def test_a_busy_machine_is_refused(scripts, monkeypatch):
    measure = scripts('measure')
    monkeypatch.setattr(measure.psutil, 'cpu_percent', lambda interval: 60.)
    with pytest.raises(SystemExit, match='60 % busy'):
        measure.parse(measure.create_parser('x', 'y'), ['--device', 'cpu'])
    args = measure.parse(measure.create_parser('x', 'y'), ['--device', 'cpu', '--quick'])
    assert isinstance(args, argparse.Namespace)


@pytest.mark.parametrize('name, argv', [
    ('steps', ['--parts', 'loss', 'teacher']), ('steps', ['--parts', 'student', 'distillation']), ('epoch', []),
    ('epoch', ['--teacher-bank']), ('loaders', []), ('loaders', ['--photos']), ('seeds', []),
    ('steps', ['--parts', 'memory']), ('steps', ['--parts', 'convolutions']),
], ids=lambda value: value if isinstance(value, str) else ' '.join(value))
def test_quick(scripts, capsys, name, argv):
    scripts(name).main(['--device', 'cpu', '--quick', *argv])
    printed = capsys.readouterr().out
    assert ' | ratio |' in printed or '÷' in printed
    assert 'nan' not in printed


@pytest.mark.parametrize('name, has', [
    ('steps', {'--repeats', '--quick'}), ('epoch', {'--repeats', '--quick'}), ('loaders', {'--repeats', '--quick'}),
    ('seeds', {'--quick'}), ('accuracy', set())])
def test_help(scripts, capsys, name, has):
    with pytest.raises(SystemExit) as ended:
        scripts(name).main(['--help'])
    assert ended.value.code == 0
    assert set(re.findall('--repeats|--quick', capsys.readouterr().out)) == has


def test_two_processes_take_turns(tmp_path):
    """The baseline's call is made by a second process, ours by the first, and both know all the times."""
    script = tmp_path / 'script.py'
    script.write_text(f'''
import os, sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
import measure
measure.BUSY = 1000.

def call(name, seconds):
    def run():
        with open({str(tmp_path / 'calls')!r}, 'a') as file:
            print(name, os.getpid(), measure.ROLE in os.environ, file=file)
        time.sleep(seconds)
    return run

args = measure.parse(measure.create_parser('x', 'y'), ['--device', 'cpu'], pair=True)
times = measure.in_turns({{'plain': call('plain', 0.2), 'ours': call('ours', 0.)}}, 2, args.device)
measure.refuse_if_busy()
print('printed once', 0.2 <= times['plain'] < 2 and times['ours'] < 0.1)
''')
    answer = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {'PYTHONPATH': str(BENCHMARKS.parent)}, capture_output=True,
        text=True, check=True, timeout=120)
    assert answer.stdout == 'printed once True\n'
    calls = [line.split() for line in (tmp_path / 'calls').read_text().splitlines()]
    assert [(name, second) for name, _, second in calls] == [('plain', 'True'), ('ours', 'False')] * 3
    assert len({process for _, process, _ in calls}) == 2
