"""CUDA graphs of a training step: what a recording holds on to, on a CPU that replays operations as a graph does."""
from argparse import Namespace
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from emulation import emulated_gpu
from recording import record_on_cpu
from torch import nn

import timm_ltkd
from timm_ltkd.engine.epoch import graph
from timm_ltkd.engine.epoch.graph import GraphedStep, check_graphable
from timm_ltkd.engine.epoch.step import TrainingStep
from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.errors import UserError


def make_net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def make_task(**options):
    prior = timm_ltkd.ClassPrior([50, 20, 10, 5, 2])
    method = timm_ltkd.create_method('bkd', prior=prior, **options)
    return timm_ltkd.DistillTask(make_net(0), make_net(1).eval(), method, mean=(0, 0, 0), std=(1, 1, 1))


def make_optimizer(task, kind='sgd'):
    parameters = task.get_trainable_module().parameters()
    if kind == 'sgd':
        return torch.optim.SGD(parameters, lr=0.5, momentum=0.5, weight_decay=0.25, fused=True)
    return torch.optim.AdamW(parameters, lr=0.5, fused=True)


def train(graphed, kind='sgd', epochs=3, clip_grad=None, **options):
    """Weights, statistics and losses after some epochs of seven batches, the last of them smaller."""
    task = make_task(**options)
    optimizer, accelerator = make_optimizer(task, kind), Accelerator()
    watch = LossWatch(accelerator)
    args = Namespace(clip_grad=clip_grad, clip_mode='norm', channels_last=True, torchcompile=None)
    step = TrainingStep(task, accelerator.prepare(optimizer), accelerator, args, watch)
    records = []

    def record(function, *where):
        records.append(function)
        return record_on_cpu(function)
    if graphed:
        step = GraphedStep(step, optimizer, [task.method, task.criterion], record)
    generator, means = torch.Generator().manual_seed(0), []
    for epoch in range(epochs):
        task.train()
        task.set_epoch(epoch)
        watch.start()
        for i in range(7):
            optimizer.param_groups[0]['lr'] = 2. ** -(epoch + i)  # the same in float32 and float64
            size = 3 if i == 6 else 4
            step(torch.randn(size, 3, 8, 8, generator=generator), torch.randint(5, (size,), generator=generator))
        means.append(watch.read(epoch + 1))
    return task.state_dict(), means, len(records), optimizer.param_groups[0]['lr']


@pytest.mark.parametrize('kind', ['sgd', 'adamw'])
def test_replayed_steps_equal_plain_ones(kind):
    plain, plain_means, _, _ = train(False, kind)
    graphed, means, records, lr = train(True, kind)
    assert records == 1
    assert means == plain_means
    assert lr == 2. ** -8 and isinstance(lr, float)  # as schedules and checkpoints know it
    for name, value in plain.items():
        assert torch.equal(value, graphed[name]), name


def test_a_method_that_changes_is_recorded_anew():
    options = dict(deferred_epochs=2)
    plain, plain_means, _, _ = train(False, **options)
    graphed, means, records, _ = train(True, **options)
    assert records == 2
    assert means == plain_means
    assert all(torch.equal(value, graphed[name]) for name, value in plain.items())


@pytest.mark.parametrize('changed', [
    dict(bounds=(0.5, 2)), dict(bounds=[0.5, 2]), dict(bounds={'low': [0.5]}), dict(_own=(1,)), {}])
def test_plain_values_in_lists_and_the_like_are_looked_at(changed):
    module = torch.nn.Linear(2, 2)
    module.bounds, module._own, module.tensors = [0.5, 1], 2, [torch.ones(2)]
    step = GraphedStep(None, torch.optim.SGD(module.parameters(), lr=0.1), [module], record_on_cpu)
    before = step._constants()
    module.tensors.append(3)  # no plain values
    assert step._constants() == before
    for name, value in changed.items():
        if isinstance(value, list):
            module.bounds[1] = 2  # in place
        else:
            setattr(module, name, value)
    assert (step._constants() != before) == bool(changed)


def test_the_last_batch_of_an_epoch_has_a_recording_of_its_own():
    plain, plain_means, _, _ = train(False, epochs=6)
    graphed, means, records, _ = train(True, epochs=6)
    assert records == 2
    assert means == plain_means
    assert all(torch.equal(value, graphed[name]) for name, value in plain.items())


def test_a_term_that_comes_later_is_added_up():
    """The watch makes room for it in a step that is not recorded."""
    module, means = nn.Linear(1, 1), []
    for graphed in (False, True):
        watch = LossWatch(Accelerator())

        def step(values, watch=watch):
            later = {'later': values.sum()} if module.late else {}
            watch.add({'loss': values.mean(), **later}, len(values))
        if graphed:
            step = GraphedStep(step, torch.optim.SGD(module.parameters(), lr=1., fused=True), [module], record_on_cpu)
        watch.start()
        for i in range(12):
            module.late = i >= 6
            step(torch.full((4,), float(i)))
        means.append(watch.read(1))
    assert means[0] == means[1]
    assert means[0]['loss'] == 5.5 and means[0]['later'] == 17.


def test_no_room_for_a_recording_is_told_as_such(monkeypatch):
    def fail(error):
        raise error
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Namespace)
    monkeypatch.setattr(torch.cuda, 'graph', lambda *args, **kwargs: nullcontext())
    for error, raised in ((torch.OutOfMemoryError('CUDA out of memory'), torch.OutOfMemoryError),
                          (RuntimeError('waits'), UserError)):
        with pytest.raises(raised):
            graph.record_cuda_graph(lambda error=error: fail(error), None, None)


def test_clipped_gradients():
    plain, graphed = (train(graphed, clip_grad=0.125)[0] for graphed in (False, True))
    assert all(torch.equal(value, graphed[name]) for name, value in plain.items())


def test_the_emulation_sees_baked_in_values():
    """What the tests above rely on: a number that changes between replays is not seen by a recording."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=1., fused=True)
    weight = optimizer.param_groups[0]['params'][0]
    weight.grad = torch.ones(2)
    replay = record_on_cpu(optimizer.step)
    assert weight.tolist() == [1., 1.]
    optimizer.param_groups[0]['lr'] = 100.
    replay()
    assert weight.tolist() == [0., 0.]


def test_a_step_that_waits_is_told_in_one_line():
    task = make_task()
    step = GraphedStep(
        lambda input: float(input.sum()), make_optimizer(task), [], record_on_cpu)
    batch = torch.ones(2)
    for _ in range(3):
        step(batch)
    with pytest.raises(RuntimeError, match='asked of the device'):
        step(batch)


def test_optimizers_that_cannot_be_recorded():
    weights = [nn.Parameter(torch.ones(2))]
    check_graphable(torch.optim.SGD(weights, lr=1., fused=True), 'sgd')
    for optimizer in (torch.optim.SGD(weights, lr=1.), torch.optim.RMSprop(weights)):
        with pytest.raises(UserError, match='--cuda-graph needs a fused optimizer'):
            check_graphable(optimizer, 'x')


@pytest.mark.parametrize('more', [
    ['--loader', 'timm'],
    ['--loader', 'resident', '--hflip', '0.5', '--model-ema', '--model-ema-decay', '0.5'],
    ['--loader', 'resident', '--hflip', '0.5', '--teacher-bank', 'BANK'],
    ['--loader', 'resident', '--kd', 'krdistill', '--clip-grad', '1'],
    ['--loader', 'resident', '--reprob', '0.5', '--opt', 'adamw'],
], ids=['timm', 'resident', 'bank', 'krdistill', 'erasing'])
def test_whole_runs(script, options, teacher, tmp_path, monkeypatch, more):
    """Loader, augmentation, teacher, bank and average of the weights around or inside of what is recorded."""
    monkeypatch.setattr(graph, 'record_cuda_graph', record_on_cpu)
    rates = ['--lr', '0.0625', '--sched', 'step', '--decay-epochs', '1', '--decay-rate', '0.5']  # exact in float32
    argv = [
        *options, '--student', 'resnet20', '--teacher-checkpoint', str(teacher), '--color-jitter', '0', *rates, *more]
    for name, graphed in (('plain', []), ('graphed', ['--cuda-graph'])):
        words = [*argv, *graphed, '--experiment', name]
        with emulated_gpu():
            script('distill', [word.replace('BANK', str(tmp_path / f'bank_{name}')) for word in words])
    for file in ('model.safetensors', 'summary.csv'):
        assert (tmp_path / 'plain' / file).read_bytes() == (tmp_path / 'graphed' / file).read_bytes(), file


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_on_a_gpu(on_gpu, monkeypatch):
    """Run on a machine that has one: replayed steps against plain ones, in float32 rounding."""
    from timm_ltkd.engine.epoch.graph import record_cuda_graph
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)
    task, other = make_task().to('cuda'), make_task().to('cuda')
    batches = [(torch.randn(4, 3, 8, 8, device='cuda'), torch.randint(5, (4,), device='cuda')) for _ in range(9)]
    args = Namespace(clip_grad=None, clip_mode='norm', channels_last=False, torchcompile=None)
    for each, graphed in ((task, False), (other, True)):
        accelerator, optimizer = Accelerator(), make_optimizer(each)
        step = TrainingStep(each, accelerator.prepare(optimizer), accelerator, args, LossWatch(accelerator))
        if graphed:
            step = GraphedStep(step, optimizer, [each.method], record_cuda_graph)
        each.train()
        for batch in batches + [(images[:3], labels[:3]) for images, labels in batches]:
            step(*batch)
    for name, value in task.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-5)
