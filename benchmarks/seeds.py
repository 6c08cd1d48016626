"""Several seeds at once beside one run at a time: students of one teacher, by BKD.

    python benchmarks/seeds.py [--seeds N] [--epochs N]

The same students, one after the other and by what --seeds does, on as many CPU threads in all. Timed are the epochs,
evaluation included.
"""
import threading
import time
from functools import partial

import timm
import torch
from measure import create_parser, machine, parse, refuse_if_busy, synchronize
from ours import create_data, create_training, start
from plain import random_pixels

from timm_ltkd.engine.seeds.together import Turn, at_once, in_threads
from timm_ltkd.engine.shared import Shared
from timm_ltkd.engine.training import Training
from timm_ltkd.report.table import Grid, markdown_grid


def main(argv: list[str] | None = None) -> None:
    parser = create_parser('seeds.py', __doc__.splitlines()[0])
    add = parser.add_argument
    add('--seeds', metavar='N', type=int, help='how many (default: 4 on a CPU, 16 on a GPU)')
    add('--epochs', metavar='N', type=int, default=2, help='of each that are timed (default: %(default)s)')
    add('--model', metavar='NAME', default='resnet32', help='teacher and student (default: %(default)s)')
    args = parse(parser, argv)
    count = args.seeds or (16 if args.device.type == 'cuda' else 4)
    if args.quick:
        args.model, args.epochs, count = 'resnet20', 1, 2
    train, test = random_pixels(**(dict(classes=4, largest=20, of_test=5) if args.quick else {}))
    accelerator, data = start(args.device, args.precision), create_data(train, test)
    seconds = {}
    for name, together in ('one at a time', False), ('at once', True):
        trainings = create_trainings(args.model, count, accelerator, data, together)
        # images are decoded, kernels chosen, and on a GPU graphs recorded, that of the last batch in the fourth epoch
        run(trainings, 4 if args.device.type == 'cuda' else 1, together, args.device)
        seconds[name] = run(trainings, args.epochs, together, args.device)
    if not args.quick:
        refuse_if_busy()
    print(f'{machine(args.device)}; {count} students of {args.model}, {args.epochs} epochs each, '
          f'{at_once(count, args.device)} at a time\n')
    first = seconds['one at a time']
    print(markdown_grid(Grid(['', 'runs of 200 epochs an hour', 'ratio'], [
        [name, f'{3600 * count * args.epochs / 200 / each:.2f}', f'{first / each:.2f}']
        for name, each in seconds.items()])))


def create_trainings(model: str, count: int, accelerator, data, together: bool) -> list[Training]:
    """A run for each seed, with one teacher; with a turn for each where they are at once."""
    torch.manual_seed(0)
    student, teacher = (timm.create_model(model, num_classes=data.prior.num_classes) for _ in range(2))
    stop, shared, trainings = threading.Event(), Shared(), []
    for seed in range(count):
        trainings.append(create_training(accelerator, data, student, teacher, ['--seed', str(seed)], shared=shared))
        if together:
            trainings[-1].turn = Turn(stop)
            trainings[-1].decode()
    return trainings


def run(trainings: list[Training], epochs: int, together: bool, device: torch.device) -> float:
    """Seconds of so many epochs of each."""
    def train(training: Training) -> None:
        for _ in range(epochs):
            training.run_epoch()

    synchronize(device)
    begun = time.perf_counter()
    if together:
        calls = {f'seed {training.args.seed}': partial(train, training) for training in trainings}
        if failures := in_threads(calls, device, threading.Event()):
            raise RuntimeError(str(failures))
    else:
        for training in trainings:
            train(training)
    synchronize(device)
    return time.perf_counter() - begun


if __name__ == '__main__':
    main()
