"""bf16, torch.compile and channels_last: the same training, computed another way."""
import json

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo import register_backend

from timm_ltkd.engine import fit
from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.report.summary import read_summary

TINY_VIT = '--model vit_tiny_patch16_224 --model-kwargs patch_size=4 embed_dim=16 depth=2 num_heads=2'.split()
compiled_graphs = []


@register_backend
def counting(graph, inputs):
    """Runs a graph as it is, and notes that it was asked to."""
    compiled_graphs.append(graph)
    return graph.forward


@pytest.fixture
def losses(monkeypatch):
    """Every loss of every step, as the loop saw it."""
    seen = []
    add = LossWatch.add

    def watched(watch, losses, size):
        seen.append({name: loss.detach() for name, loss in losses.items()})
        add(watch, losses, size)
    monkeypatch.setattr(LossWatch, 'add', watched)
    return seen


def numbers(losses):
    return [{name: float(loss) for name, loss in step.items()} for step in losses]


def test_bf16_keeps_losses_and_weights_in_float32(script, options, teacher, losses, tmp_path, monkeypatch):
    argv = [*options, '--student', 'resnet20', '--teacher-checkpoint', str(teacher), '--epochs', '1', '--experiment']
    inside = []
    make = fit.Training.__init__

    def init(training, *args, **kwargs):
        make(training, *args, **kwargs)
        for network in (fit.eval_network(training.task), training.task.teacher.model):
            network.fc.register_forward_hook(lambda module, _, output: inside.append(output.dtype))
    monkeypatch.setattr(fit.Training, '__init__', init)

    losses.clear()
    script('distill', [*argv, 'fp32'])
    exact = numbers(losses)
    assert set(inside) == {torch.float32}
    inside.clear()
    losses.clear()
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    script('distill', [*argv, 'bf16'])
    assert set(inside) == {torch.bfloat16, torch.float32}, 'in training and in evaluation'
    assert {loss.dtype for step in losses for loss in step.values()} == {torch.float32}
    assert losses[0].keys() == {'loss', 'task_loss', 'bkd_loss'}
    for key, value in numbers(losses)[0].items():
        assert value == pytest.approx(exact[0][key], rel=0.05) and value != exact[0][key]
    weights = load_file(tmp_path / 'bf16/model.safetensors')
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    for run, precision in (('fp32', 'no'), ('bf16', 'bf16')):
        assert json.loads((tmp_path / run / 'report.json').read_text())['run']['precision'] == precision


@pytest.mark.parametrize('chooses', [['--holdout', '0.3'], ['--sched', 'plateau']])
def test_what_chooses_is_evaluated_in_float32(script, options, monkeypatch, chooses):
    seen, evaluate = [], fit.Training.evaluate

    def note(training, **how):
        seen.append(how.get('as_trained', False))
        return evaluate(training, **how)
    monkeypatch.setattr(fit.Training, 'evaluate', note)
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    script('train', [*options, '--model', 'resnet20', '--epochs', '2', '--experiment', 'run', *chooses])
    assert len(seen) >= 3 and not any(seen)


@pytest.mark.parametrize('compiled', [[], ['--torchcompile', 'counting']])
def test_epochs_but_the_last_are_evaluated_in_bf16(script, options, tmp_path, monkeypatch, compiled):
    """And by a classifier in float32; what is reported, and what validate.py says, is all float32."""
    inside = []
    make = fit.Training.__init__

    def init(training, *args, **kwargs):
        make(training, *args, **kwargs)
        network = fit.eval_network(training.task)
        network.conv1.register_forward_hook(
            lambda _, inputs, output: None if network.training else inside.append(output.dtype))
    if not compiled:
        monkeypatch.setattr(fit.Training, '__init__', init)
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    script('train', [*options, '--model', 'resnet20', '--epochs', '3', '--experiment', 'run', *compiled])
    if not compiled:
        batches = len(inside) // 4  # three epochs, and once more for the report
        assert inside == [torch.bfloat16] * 2 * batches + [torch.float32] * 2 * batches
    report = json.loads((tmp_path / 'run/report.json').read_text())['student']
    assert read_summary(tmp_path / 'run/summary.csv')[-1]['eval_top1'] == report['top1']
    script('validate', [*options[:4], '--workers', '0', str(tmp_path / 'run'),
                        '--results-file', str(tmp_path / 'out.json')])
    measured, = json.loads((tmp_path / 'out.json').read_text()).values()
    assert measured['per_class'] == report['per_class']


def test_other_precision_is_another_recipe(script, options, tmp_path, monkeypatch, capsys):
    argv = [*options, '--model', 'resnet20', '--epochs', '1', '--experiment', 'run']
    script('train', argv)
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    with pytest.raises(SystemExit):
        script('train', [*argv, '--resume', 'auto'])
    assert 'other settings' in capsys.readouterr().err


@pytest.mark.parametrize('backend', ['counting', 'aot_eager'])
def test_compiled_training(script, options, losses, tmp_path, backend):
    argv = [*options, *TINY_VIT, '--epochs', '2', '--model-ema', '--model-ema-decay', '0.9', '--experiment']
    script('train', [*argv, 'plain'])
    plain = numbers(losses)
    losses.clear()
    compiled_graphs.clear()
    script('train', [*argv, 'compiled', '--torchcompile', backend])
    assert len(compiled_graphs) >= (2 if backend == 'counting' else 0), 'in training and in evaluation'
    for mine, other in zip(plain, numbers(losses), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-6)
    check_equal_runs(tmp_path / 'plain', tmp_path / 'compiled')


def test_compiled_distillation(script, options, teacher, losses, tmp_path):
    argv = [*options, '--student', 'resnet20', '--teacher-checkpoint', str(teacher), '--epochs', '1', '--experiment']
    losses.clear()
    script('distill', [*argv, 'plain'])
    plain = numbers(losses)
    losses.clear()
    compiled_graphs.clear()
    script('distill', [*argv, 'compiled', '--torchcompile', 'counting'])
    assert len(compiled_graphs) >= 3, 'the teacher, the student in training, the student in evaluation'
    for mine, other in zip(plain, numbers(losses), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    check_equal_runs(tmp_path / 'plain', tmp_path / 'compiled')


def test_channels_last(script, options, teacher, losses, tmp_path, monkeypatch):
    argv = [*options, '--student', 'resnet20', '--teacher-checkpoint', str(teacher), '--epochs', '1', '--lr', '0.001',
            '--experiment']
    layouts = []
    make = fit.Training.__init__

    def init(training, *args, **kwargs):
        make(training, *args, **kwargs)
        for network in (fit.eval_network(training.task), training.task.teacher.model):
            network.conv1.register_forward_hook(lambda module, inputs, _: layouts.append((
                inputs[0].is_contiguous(memory_format=torch.channels_last),
                module.weight.is_contiguous(memory_format=torch.channels_last))))
    losses.clear()
    script('distill', [*argv, 'plain', '--no-channels-last'])
    plain = numbers(losses)
    losses.clear()
    monkeypatch.setattr(fit.Training, '__init__', init)
    script('distill', [*argv, 'last'])
    assert set(layouts) == {(True, True)}
    for mine, other in zip(plain, numbers(losses), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    check_equal_runs(tmp_path / 'plain', tmp_path / 'last')


def check_equal_runs(one, other):
    """Names are the same, weights and figures all but the same."""
    weights = [load_file(folder / 'model.safetensors') for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-5)
    rows = [read_summary(folder / 'summary.csv') for folder in (one, other)]
    for mine, theirs in zip(*rows, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
