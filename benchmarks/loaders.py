"""Batches of CIFAR-sized images: the loop of public CIFAR code beside --loader timm and --loader resident.

    python benchmarks/loaders.py [--device cuda] [--images N] [--repeats N] [--workers N]

All give the same: crop of 32 pixels after padding by 4, horizontal flip, normalisation, batches of 128. The loaders
take turns; the medians of images a second are printed, and what they are of the first. A machine that is busy with
something else is refused.
"""
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import measure
import numpy as np
import plain
import torch
from plain import BATCH, MEAN, STD, Pixels

from timm_ltkd.data import LongTailedDataset, create_train_loader, create_train_transform, epoch_plan
from timm_ltkd.report.table import Grid, markdown_grid


def main(argv: list[str] | None = None) -> None:
    parser = measure.create_parser('loaders.py', __doc__.splitlines()[0])
    parser.set_defaults(repeats=5)
    parser.add_argument('--images', type=int, default=10847, help='of an epoch (default: CIFAR-100-LT, %(default)s)')
    parser.add_argument('--workers', type=int, default=4, help='of the first two (default: %(default)s)')
    args = measure.parse(parser, argv)
    if args.quick:
        args.images, args.workers, args.repeats = 300, 0, 1
    loaders = create_loaders(args.images, args.workers, args.device)
    rates = {name: [] for name in loaders}
    for epoch in range(args.repeats + 1):
        for name, start_epoch in loaders.items():
            rate = images_a_second(start_epoch(epoch), args.images, args.device)
            if epoch:  # the first starts the workers, and decodes what stays resident
                rates[name].append(rate)
    if not args.quick:
        measure.refuse_if_busy()
    print(f'{measure.machine(args.device)}, {args.workers} workers, {args.images} images, {args.repeats} epochs\n')
    medians = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(medians.values()))
    print(markdown_grid(Grid(
        ['', 'images/s', 'ratio'],
        [[name, f'{median:,.0f}', f'{median / first:.1f}'] for name, median in medians.items()])))


def create_loaders(count: int, workers: int, device: torch.device) -> dict[str, Callable[[int], Iterable]]:
    """By name: from the number of an epoch to its batches."""
    pixels = Pixels(np.arange(count) % 100)
    public, _ = plain.create_loaders(pixels, pixels, workers)
    data = LongTailedDataset(pixels, class_names=[str(c) for c in range(100)])
    transform = create_train_transform(input_size=32, mean=MEAN, std=STD, crop_mode='pad')
    create = partial(
        create_train_loader, data, transform, batch_size=BATCH, seed=0, workers=workers,
        pin_memory=device.type == 'cuda')

    def started(loader) -> Callable[[int], Iterable]:
        def start(epoch: int):
            epoch_plan(loader).set_epoch(epoch)
            return loader
        return start
    return {
        'public CIFAR code': lambda epoch: public, '--loader timm': started(create()),
        '--loader resident': started(create(resident_on=device))}


def images_a_second(batches: Iterable, count: int, device: torch.device) -> float:
    """Of an epoch, on their device; the workers of public code start anew with each."""
    start, seen = time.perf_counter(), 0
    for input, target in batches:
        input.to(device, non_blocking=True)
        seen += len(target)
    measure.synchronize(device)
    seconds = time.perf_counter() - start
    if not count <= seen < count + BATCH:
        raise RuntimeError(f'{seen} images instead of {count}')
    return seen / seconds


if __name__ == '__main__':
    main()
