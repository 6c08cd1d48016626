"""Batches of CIFAR-sized images: the loop of public CIFAR code beside --loader timm and --loader resident.

    python benchmarks/loaders.py [--images N] [--repeats N] [--workers N]

All give the same: crop of 32 pixels after padding by 4, horizontal flip, normalisation, batches of 128. The loaders
take turns; the medians of images a second are printed, and what they are of the first. A machine that is busy with
something else is refused.
"""
import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from timm_ltkd.data import LongTailedDataset, create_train_loader, create_train_transform, epoch_plan

MEAN, STD, BATCH, BUSY = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 128, 20.


class Pixels(Dataset):
    """Random images in an array, as torchvision keeps CIFAR's."""

    def __init__(self, count: int, transform=None):
        self.data = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = [i % 100 for i in range(count)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        image = Image.fromarray(self.data[index])
        return image if self.transform is None else self.transform(image), self.targets[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=10847, help='of an epoch (default: CIFAR-100-LT, %(default)s)')
    parser.add_argument('--repeats', type=int, default=5, help='epochs of each loader (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=4, help='of the first two (default: %(default)s)')
    args = parser.parse_args()
    refuse_if_busy()
    loaders = create_loaders(args.images, args.workers)
    rates = {name: [] for name in loaders}
    for epoch in range(args.repeats + 1):
        for name, start_epoch in loaders.items():
            rate = images_a_second(start_epoch(epoch), args.images)
            if epoch:  # the first starts the workers, and decodes what stays resident
                rates[name].append(rate)
    refuse_if_busy()
    print(f'{torch.get_num_threads()} threads, {args.workers} workers, {args.images} images, {args.repeats} epochs\n')
    print('| | images/s | ratio |\n|---|---|---|')
    medians = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f'| {name} | {median:,.0f} | {median / first:.1f} |')


def create_loaders(count: int, workers: int) -> dict[str, Callable[[int], Iterable]]:
    """By name: from the number of an epoch to its batches."""
    public = DataLoader(
        Pixels(count, transforms.Compose([
            transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize(MEAN, STD)])),
        batch_size=BATCH, shuffle=True, num_workers=workers)
    data = LongTailedDataset(Pixels(count), class_names=[str(c) for c in range(100)])
    transform = create_train_transform(input_size=32, mean=MEAN, std=STD, crop_mode='pad')
    common = dict(batch_size=BATCH, seed=0, workers=workers)
    ours = {
        '--loader timm': create_train_loader(data, transform, **common),
        '--loader resident': create_train_loader(data, transform, **common, resident_on=torch.device('cpu'))}

    def started(loader) -> Callable[[int], Iterable]:
        def start(epoch: int):
            epoch_plan(loader).set_epoch(epoch)
            return loader
        return start
    return {'public CIFAR code': lambda epoch: public} | {name: started(loader) for name, loader in ours.items()}


def images_a_second(batches: Iterable, count: int) -> float:
    """Of an epoch; the workers of public code start anew with each."""
    start = time.perf_counter()
    seen = sum(len(target) for _, target in batches)
    seconds = time.perf_counter() - start
    if not count <= seen < count + BATCH:
        raise RuntimeError(f'{seen} images instead of {count}')
    return seen / seconds


def refuse_if_busy() -> None:
    """End with a message if other programs keep the processor busy."""
    busy = psutil.cpu_percent(interval=2)
    if busy > BUSY:
        sys.exit(f'the processor is {busy:.0f} % busy with something else: figures would mean nothing')


if __name__ == '__main__':
    main()
