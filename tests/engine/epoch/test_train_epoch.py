"""The training loop: accumulated and clipped gradients, moving averages, and losses that are not finite."""
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file
from timm.models import _registry
from timm.task import ClassificationTask

from timm_ltkd.engine import training
from timm_ltkd.engine.epoch import step
from timm_ltkd.engine.processes import launch
from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files
from timm_ltkd.models import resnet20
from timm_ltkd.report.summary import read_summary

TINY_VIT = '--model vit_tiny_patch16_224 --model-kwargs patch_size=4 embed_dim=16 depth=2 num_heads=2'.split()


@pytest.fixture
def updates(monkeypatch):
    """The gradients by parameter name that each update of the optimizer was made with."""
    seen = []
    create = training.create_optimizer

    def create_watched(args, module, precision):
        optimizer = create(args, module, precision)
        optimizer.register_step_pre_hook(lambda *_: seen.append(
            {name: parameter.grad.clone() for name, parameter in module.named_parameters()}))
        return optimizer
    monkeypatch.setattr(training, 'create_optimizer', create_watched)
    return seen


def masked(pretrained=False, **kwargs):
    """With a buffer that is not finite, as an attention mask."""
    network = resnet20(**kwargs)
    network.register_buffer('mask', torch.tensor([0., -torch.inf]))
    return network


@pytest.mark.parametrize('ruins', [False, True])
def test_a_buffer_of_infinities_is_no_ruin(script, options, monkeypatch, tmp_path, capsys, ruins):
    monkeypatch.setitem(_registry._model_entrypoints, 'resnet20', masked)
    argv = [*options, '--model', 'resnet20', '--epochs', '1', '--experiment', 'run']
    if not ruins:
        script('train', argv)
        assert torch.equal(load_file(tmp_path / 'run/model.safetensors')['mask'], torch.tensor([0., -torch.inf]))
        return
    read = training.LossWatch.read

    def ruin(watch, epoch):
        watch.also.__self__.task.trainable_module.fc.bias.data[0] = torch.inf
        return read(watch, epoch)
    monkeypatch.setattr(training.LossWatch, 'read', ruin)
    with pytest.raises(SystemExit):
        script('train', argv)
    assert 'the weights are NaN or infinite after epoch 1' in capsys.readouterr().err


def with_an_idle_layer(pretrained=False, **kwargs):
    network = resnet20(**kwargs)
    network.extra = torch.nn.Linear(2, 2)
    return network


def test_several_processes_refuse_weights_without_a_gradient(script, options, monkeypatch, capsys):
    """For which the next step would wait; one process trains all the same."""
    monkeypatch.setitem(_registry._model_entrypoints, 'resnet20', with_an_idle_layer)
    argv = [*options, '--model', 'resnet20', '--epochs', '1', '--experiment', 'run']
    script('train', argv)
    call = step.TrainingStep.__call__

    def as_one_of_two(self, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(type(self.accelerator), 'num_processes', 2)
            call(self, *args, **kwargs)
    monkeypatch.setattr(step.TrainingStep, '__call__', as_one_of_two)
    with pytest.raises(SystemExit):
        script('train', [*argv, '--overwrite'])
    assert 'weights that get no gradient (extra.weight, extra.bias)' in capsys.readouterr().err


def test_a_teacher_that_was_trained_first_leaves_no_memory_behind(script, options, monkeypatch):
    """Under fp16 either, whose optimizers refer to themselves."""
    create, begin, optimizers, alive = launch.create_accelerator, training.Training.__init__, [], []

    def create_accelerator(*args):
        accelerator = create(*args)
        accelerator.scaler = torch.amp.GradScaler('cpu')
        return accelerator

    def noted(run, *args, **kwargs):
        alive.append([optimizer() is not None for optimizer in optimizers])
        begin(run, *args, **kwargs)
        optimizers.append(weakref.ref(run.optimizer.optimizer))
    monkeypatch.setattr(launch, 'create_accelerator', create_accelerator)
    monkeypatch.setattr(training.Training, '__init__', noted)
    script('distill', [*options, '--teacher', 'resnet20', '--student', 'resnet20', '--epochs', '1'])
    assert alive == [[], [False]]


def total_norm(gradients):
    return torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients.values()]))


@pytest.mark.parametrize('steps, batch', [(2, 4), (4, 2), (3, 2)])
def test_accumulated_gradients_are_those_of_the_larger_batch(script, options, updates, steps, batch):
    """23 images in 2 epochs: the last window is short, and so is its last batch."""
    argv = [*options, *TINY_VIT, '--epochs', '2', '--no-aug', '--opt', 'momentum', '--experiment']
    script('train', [*argv, 'large', '-b', str(batch * steps)])
    large = updates[:]
    updates.clear()
    script('train', [*argv, 'accumulated', '-b', str(batch), '--grad-accum-steps', str(steps)])
    whole_windows = 23 // (batch * steps)
    assert len(large) == len(updates) == 2 * (whole_windows + 1)
    same = len(large) if batch == 4 else whole_windows  # a last batch of one is filled up, so then they part
    for mine, other in zip(large[:same], updates[:same], strict=True):
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], rtol=1e-4, atol=1e-6)


def test_clipping_by_norm_and_value(script, options, updates):
    argv = [*options, '--model', 'resnet20', '--epochs', '1', '--no-aug', '--experiment']
    script('train', [*argv, 'free'])
    free = updates[0]
    assert total_norm(free) > 1
    for mode in ('norm', 'value'):
        updates.clear()
        script('train', [*argv, mode, '--clip-grad', '0.01', '--clip-mode', mode])
        clipped = updates[0]
        if mode == 'norm':
            assert total_norm(clipped) == pytest.approx(0.01, rel=1e-3)
            scale = 0.01 / total_norm(free)
            torch.testing.assert_close(clipped['conv1.weight'], free['conv1.weight'] * scale, rtol=1e-3, atol=1e-8)
        else:
            for name in free:
                torch.testing.assert_close(clipped[name], free[name].clamp(-0.01, 0.01))


@pytest.mark.parametrize('name', ['train', 'distill'])
def test_adaptive_clipping_leaves_the_head_alone(script, options, teacher, updates, name):
    network = ['--model', 'resnet20']
    if name == 'distill':
        network = ['--student', 'resnet20', '--teacher-checkpoint', str(teacher)]
    argv = [*options, *network, '--epochs', '1', '--no-aug', '--experiment']
    script(name, [*argv, 'free'])
    free = {key.removeprefix('student.'): value for key, value in updates[0].items()}
    updates.clear()
    script(name, [*argv, 'agc', '--clip-grad', '0.001', '--clip-mode', 'agc'])
    clipped = {key.removeprefix('student.'): value for key, value in updates[0].items()}
    for key in ('fc.weight', 'fc.bias'):
        assert torch.equal(clipped[key], free[key])
    weight, gradient = 'layer1.0.conv1.weight', clipped['layer1.0.conv1.weight']
    assert total_norm({weight: gradient}) < 0.5 * total_norm({weight: free[weight]})


def test_the_moving_average_is_what_is_evaluated_and_exported(script, options, images, tmp_path):
    script('train', [*options, '--model', 'resnet20', '--model-ema', '--model-ema-decay', '0.9', '--experiment', 'run'])
    state = torch.load(checkpoint_files(tmp_path / 'run/last')[0], weights_only=True)
    exported = load_file(tmp_path / 'run/model.safetensors')
    assert exported.keys() == state['model'].keys() == state['ema'].keys()
    assert all(torch.equal(exported[name], state['ema'][name]) for name in exported)
    assert not torch.equal(exported['fc.weight'], state['model']['fc.weight'])
    torch.save(state['model'], tmp_path / 'raw.pt')
    figures = {}
    for source in (tmp_path / 'run', tmp_path / 'raw.pt'):
        script('validate', ['--dataset', '', '--data-dir', str(images), '--img-size', '8', '--workers', '0', '--model',
                            'resnet20', str(source), '--results-file', str(tmp_path / 'figures.json')])
        figures[source.name] = json.loads((tmp_path / 'figures.json').read_text())[str(source)]
    row = read_summary(tmp_path / 'run/summary.csv')[-1]
    assert row['eval_loss'] == pytest.approx(figures['run']['loss'], rel=1e-5)
    assert row['eval_loss'] != pytest.approx(figures['raw.pt']['loss'], rel=1e-3)


def test_the_average_follows_each_update(script, options, tmp_path, monkeypatch):
    """decay·average + (1 - decay)·weights after each optimizer step, not after each batch."""
    steps = []
    monkeypatch.setattr(ClassificationTask, 'update_ema', lambda task, step: steps.append(step))
    script('train', [*options, '--model', 'resnet20', '--model-ema', '--grad-accum-steps', '4', '--experiment', 'run'])
    assert steps == [1, 2, 3, 4, 5, 6], '3 epochs of 6 batches, in windows of 4 and 2'


@pytest.fixture
def diverging(options):
    """The first epoch trains at a sane rate, the second at one that ruins the weights."""
    return [*options, '--model', 'resnet20', '--epochs', '3', '--warmup-epochs', '1', '--warmup-lr', '0.01',
            '--lr', '1e30', '--experiment', 'run']


@pytest.mark.parametrize('more, message', [
    (['--log-interval', '1'], 'the loss became NaN or infinite in epoch 2, step 2;'),
    ([], 'the loss became NaN or infinite in epoch 2, step 2;'),
    (['-b', '32'], 'after epoch 2, step 1: the logits of 11 of 11 images are NaN or infinite'),
])
def test_a_loss_that_is_not_finite(script, diverging, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        script('train', [*diverging, *more])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and lines[-1].startswith('train.py: error: ')
    assert sorted(path.name for path in (tmp_path / 'run').iterdir()) == [
        'args.yaml', 'class_profile.png', 'last', 'summary.csv']
    good, = checkpoint_files(tmp_path / 'run/last')
    state = torch.load(good, weights_only=True)
    assert state['epoch'] == 1
    assert all(value.isfinite().all() for value in state['model'].values())
    assert len(read_summary(tmp_path / 'run/summary.csv')) == 1
