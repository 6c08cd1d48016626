"""One training step and its parts: the plain loop of public code beside ours.

    python benchmarks/steps.py [--device cuda] [--precision no]

Prints a table of ratios, each beside how far loss and gradient (of a teacher: logits) of the same batch and weights are
from those of the baseline in float64. Then what distillation costs beside plain cross-entropy, online and with a full
teacher bank; and how much of the cross-entropy step its convolutions take, were they alone, at which rate.
"""
import argparse
import copy
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial

import measure
import ours
import plain
import timm
import torch
from accelerate import Accelerator
from measure import Row, parity
from torch import nn

import timm_ltkd
from timm_ltkd.distill import Teacher, balanced_kd_loss, create_loss
from timm_ltkd.engine.run_data import Data

_TIMES = 30


def main(argv: list[str] | None = None) -> None:
    parser = measure.create_parser('steps.py', __doc__.splitlines()[0], repeats=7)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='(default: all)')
    parser.add_argument('--batches', type=int, help='of a repetition (default: 4 on a CPU, 80 on a GPU)')
    args = measure.parse(parser, argv, pair=True)
    if args.quick:
        args.repeats, args.batches, args.network, args.classes, args.many_classes = 1, 1, 'resnet20', 10, 50
        plain.BATCH = 16
    else:
        args.network, args.classes, args.many_classes = 'resnet32', 100, 8142  # as CIFAR-100 and iNaturalist 2018
        args.batches = args.batches or (4 if args.device.type == 'cpu' else 80)
    torch.manual_seed(0)
    rows = [row for part in args.parts if part in ROWS for row in PARTS[part](args)]
    lines = [line for part in args.parts if part not in ROWS for line in PARTS[part](args)]
    if not args.quick:
        measure.refuse_if_busy()
    print(f'{measure.machine(args.device)}, ours in {args.precision}, medians of {args.repeats}\n')
    if rows:
        measure.print_ratios('ms', rows, 1e3)
    if lines:
        print(*lines, sep='\n')


def student_step(args: argparse.Namespace) -> list[Row]:
    """A step by cross-entropy: eager float32 in NCHW beside ours."""
    accelerator, data, network = _setting(args)
    training = _ours(args, accelerator, data, network)
    baseline = plain.PlainTraining(copy.deepcopy(network).to(args.device))
    batches = [_batch(args) for _ in range(args.batches)]
    deviations = parity(
        partial(plain.loss_and_gradient, baseline, *batches[0]), partial(ours.loss_and_gradient, training, *batches[0]))
    times = measure.in_turns(
        {'plain': lambda: baseline.train_epoch(batches), 'ours': training.run_epoch}, args.repeats, args.device)
    return [(f'student step, {args.network}', *(seconds / args.batches for seconds in times.values()), deviations)]


def kept_memory(args: argparse.Namespace) -> list[Row]:
    """Our step by cross-entropy where the C library gives freed memory back, and where it is kept; of a CPU."""
    if args.device.type != 'cpu':
        return []
    training = _ours(args, *_setting(args))
    times = measure.in_turns({'plain': training.run_epoch, 'ours': training.run_epoch}, args.repeats, args.device)
    return [(f'our step, freed memory kept, {args.network}', *(each / args.batches for each in times.values()),
             ['', '', ''])]


def teacher_forward(args: argparse.Namespace) -> list[Row]:
    """What a teacher says of a batch: float32 without gradients beside ours."""
    shapes = [(args.network, 32, plain.BATCH)]
    if args.device.type == 'cuda' and not args.quick:
        shapes.append(('resnet152', 224, 128))
    elif not args.quick:
        shapes.append(('resnet50', 224, 16))
    return [_teacher_forward(args, *shape) for shape in shapes]


def _teacher_forward(args: argparse.Namespace, name: str, side: int, batch: int) -> Row:
    accelerator = ours.start(args.device, args.precision)
    network = timm.create_model(name, num_classes=args.classes).eval()
    teacher = Teacher(copy.deepcopy(network), fast=True).to(args.device)
    nn.Module.to(teacher, memory_format=torch.channels_last)
    network = network.to(args.device)
    input = torch.randn(batch, 3, side, side, device=args.device)

    @torch.no_grad()
    def ask_plain(exact: bool = False) -> list[torch.Tensor]:
        return [copy.deepcopy(network).double()(input.double()) if exact else network(input)]

    def ask(exact: bool = False) -> list[torch.Tensor]:
        if exact:
            return [copy.deepcopy(teacher).double()(input.double()).logits]
        with accelerator.autocast():
            return [teacher(input.contiguous(memory_format=torch.channels_last)).logits]
    times = measure.in_turns({'plain': ask_plain, 'ours': ask}, args.repeats, args.device)
    return f'teacher forward, {name} at {side}, batch {batch}', *times.values(), parity(ask_plain, ask)


def loss(args: argparse.Namespace) -> list[Row]:
    """Loss, forward and backward: public BKD code beside ours, from the same float32 logits."""
    return [_loss(args, batch) for batch in ((8,) if args.quick else (128, 256))]


def _loss(args: argparse.Namespace, batch: int) -> Row:
    student, teacher = (3 * torch.randn(batch, args.many_classes, device=args.device) for _ in range(2))
    target = torch.randint(args.many_classes, (batch,), device=args.device)
    counts = torch.logspace(3, 0, args.many_classes).round()  # as long-tailed as iNaturalist
    weights = {dtype: plain.class_weights(counts).to(args.device, dtype) for dtype in (torch.float32, torch.float64)}
    our_weights = timm_ltkd.ClassPrior(counts).effective_number_weights().to(args.device)
    criterion = create_loss('ce')

    def plain_loss(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return plain.bkd_loss(student, teacher, target, weights[student.dtype])

    def ours_loss(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return criterion(student, target) + balanced_kd_loss(student, teacher, our_weights, plain.TEMPERATURE)

    def backward(loss: Callable[..., torch.Tensor], exact: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        z_s, z_t = (z.double() if exact else z for z in (student, teacher))
        z_s.requires_grad_().grad = None
        value = loss(z_s, z_t, target)
        value.backward()
        return value.detach(), z_s.grad
    calls = {'plain': partial(backward, plain_loss), 'ours': partial(backward, ours_loss)}
    deviations = parity(*calls.values())
    if args.device.type == 'cuda':  # as --cuda-graph has it
        calls['ours'] = _graphed(calls['ours'])
    times = measure.in_turns(
        {name: partial(_again, call) for name, call in calls.items()}, args.repeats, args.device)
    return (f'loss, {args.many_classes} classes, batch {batch}', *(each / _TIMES for each in times.values()),
            deviations)


def _again(call: Callable[[], object]) -> None:
    """A call that is short, often enough to be timed."""
    for _ in range(_TIMES):
        call()


def _graphed(call: Callable[[], object]) -> Callable[[], None]:
    """A call as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def distillation(args: argparse.Namespace) -> list[str]:
    """Seconds of our step by BKD as a multiple of those of our step by cross-entropy."""
    accelerator, data, network = _setting(args)
    teacher = timm.create_model(args.network, num_classes=args.classes)
    with tempfile.TemporaryDirectory() as folder:
        bank = ['--teacher-bank', f'{folder}/bank', '--bank-views', '1']  # which the first turn fills
        trainings = {
            'cross-entropy': _ours(args, accelerator, data, network),
            'distillation step, online': _ours(args, accelerator, data, network, teacher),
            'distillation step, full bank': _ours(args, accelerator, data, network, teacher, bank)}
        times = measure.in_turns({name: each.run_epoch for name, each in trainings.items()}, args.repeats, args.device)
    base = times.pop('cross-entropy')
    return [f'{name} ÷ cross-entropy step: {seconds / base:.3f}' for name, seconds in times.items()]


def convolutions(args: argparse.Namespace) -> list[str]:
    """What our step by cross-entropy cannot be faster than: its convolutions, each alone and as often as it occurs."""
    accelerator, data, network = _setting(args)
    training = _ours(args, accelerator, data, network)
    found = Counter()

    def note(layer: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        found[(tuple(inputs[0].shape), tuple(layer.weight.shape), layer.stride, layer.padding, layer.groups)] += 1
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(note)
    with torch.no_grad():
        network.to(args.device)(_batch(args)[0])
    dtype = torch.bfloat16 if args.precision == 'bf16' else torch.float32
    calls = {kind: partial(_again, _convolution(*kind, dtype, args.device)) for kind in found}
    side = 64 if args.quick else 2048
    one, two = torch.randn(2, side, side, device=args.device).to(dtype)
    calls |= {'product': partial(_again, lambda: one @ two), 'step': training.run_epoch}
    times = measure.in_turns(calls, args.repeats, args.device)
    step, product = times.pop('step') / args.batches, times.pop('product') / _TIMES
    alone = sum(count * times[kind] / _TIMES for kind, count in found.items())
    work = sum(count * _work(*kind) for kind, count in found.items())
    return [
        f'convolutions of a {args.network} alone ÷ its cross-entropy step: {alone / step:.2f} ({1e3 * alone:.0f} of '
        f'{1e3 * step:.0f} ms)',
        f'they do {work / alone / 1e9:.0f} GFLOP/s; a product of matrices of {side} x {side} does '
        f'{2 * side ** 3 / product / 1e9:.0f}']


def _convolution(shape, weight_shape, stride, padding, groups, dtype, device) -> Callable[[], object]:
    """A convolution forward and backward, in channels_last; images get no gradient."""
    def tensor(shape):
        return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, input = tensor(weight_shape), tensor(shape)
    output = nn.functional.conv2d(input, weight, None, stride, padding, 1, groups)
    gradient, wanted = tensor(output.shape), [shape[1] != 3, True, False]

    def call() -> None:
        nn.functional.conv2d(input, weight, None, stride, padding, 1, groups)
        torch.ops.aten.convolution_backward(
            gradient, input, weight, None, stride, padding, [1, 1], False, [0, 0], groups, wanted)
    return call


def _work(shape, weight_shape, stride, padding, groups) -> int:
    """Floating-point operations of `_convolution`."""
    (batch, channels, *sides), (_, _, *kernel) = shape, weight_shape
    places = [
        (side + 2 * pad - size) // step + 1
        for side, pad, size, step in zip(sides, padding, kernel, stride, strict=True)]
    return (3 if channels != 3 else 2) * 2 * batch * math.prod(places) * math.prod(weight_shape)


def _setting(args: argparse.Namespace) -> tuple[Accelerator, Data, nn.Module]:
    """Where, on what, and with which first weights training is timed."""
    train = plain.Pixels([i % args.classes for i in range(args.batches * plain.BATCH)])
    data = ours.create_data(train, plain.Pixels(range(args.classes)))
    return ours.start(args.device, args.precision), data, timm.create_model(args.network, num_classes=args.classes)


def _ours(
        args: argparse.Namespace,
        accelerator: Accelerator,
        data: Data,
        network: nn.Module,
        teacher: nn.Module | None = None,
        options: list[str] | None = None,
):
    """A run that never evaluates within the time that it is looked at."""
    never = str(ours.NEVER)
    options = ['--val-interval', never, '--epochs', never, *(options or [])]
    return ours.create_training(accelerator, data, network, teacher, options)


def _batch(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.randn(plain.BATCH, 3, 32, 32, device=args.device),
        torch.randint(args.classes, (plain.BATCH,), device=args.device))


ROWS = {'student': student_step, 'memory': kept_memory, 'teacher': teacher_forward, 'loss': loss}
PARTS = {**ROWS, 'distillation': distillation, 'convolutions': convolutions}

if __name__ == '__main__':
    main()
