"""Batches of images: what public code does beside --loader timm and --loader resident.

    python benchmarks/loaders.py [--device cuda] [--images N] [--photos] [--repeats N] [--workers N]

All give the same: crop of 32 pixels after padding by 4, horizontal flip, normalisation, batches of 128. With --photos
images are JPEGs of 500 x 375 pixels, and all give random resized crops of 224, flipped and normalised; beside the
ImageNet code of torchvision stands timm's create_loader. The loaders take turns; the medians of images a second are
printed, and what they are of the first. A machine that is busy with something else is refused.
"""
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO

import measure
import numpy as np
import plain
import torch
from PIL import Image
from plain import BATCH, MEAN, STD, Pixels
from timm.data import create_loader
from torch.utils.data import DataLoader
from torchvision import transforms

from timm_ltkd.data import LongTailedDataset, ResidentImages, create_train_loader, create_train_transform, epoch_plan
from timm_ltkd.report.table import Grid, markdown_grid


def main(argv: list[str] | None = None) -> None:
    parser = measure.create_parser('loaders.py', __doc__.splitlines()[0], repeats=5)
    parser.add_argument(
        '--images', type=int,
        help='of an epoch (default: those of CIFAR-100-LT, 10847; with --photos 1024, a multiple of the batch)')
    parser.add_argument('--photos', action='store_true', help='JPEGs, and crops of 224 pixels')
    parser.add_argument('--workers', type=int, default=4, help='of the first two (default: %(default)s)')
    args = measure.parse(parser, argv)
    args.images = args.images or (1024 if args.photos else 10847)
    if args.quick:
        args.images, args.workers, args.repeats = 2 * BATCH, 0, 1
    create = create_photo_loaders if args.photos else create_loaders
    loaders = create(args.images, args.workers, args.device)
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
    images = ResidentImages(data, transform, workers=workers, device=device)
    return {
        'public CIFAR code': lambda epoch: public, '--loader timm': _started(create(device=device)),
        '--loader resident': _started(create(images=images))}


class Photos(Pixels):
    """JPEGs of 500 x 375 pixels, noise that is smooth enough to have the size of a photo's file."""

    def __init__(self, targets: np.ndarray, data: list[bytes] | None = None, transform=None):
        super().__init__(targets, data or [_photo(seed) for seed in range(min(len(targets), 64))], transform)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        image = Image.open(BytesIO(self.data[index % len(self.data)])).convert('RGB')
        return image if self.transform is None else self.transform(image), int(self.targets[index])

    def with_transform(self, transform) -> 'Photos':
        return Photos(self.targets, self.data, transform)


def _photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (94, 125, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, 'JPEG', quality=90)
    return file.getvalue()


def create_photo_loaders(count: int, workers: int, device: torch.device) -> dict[str, Callable[[int], Iterable]]:
    """By name: from the number of an epoch to its batches."""
    photos = Photos(np.arange(count) % 100)
    common = dict(num_workers=workers, pin_memory=device.type == 'cuda', persistent_workers=workers > 0)
    public = DataLoader(
        photos.with_transform(transforms.Compose([
            transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize(MEAN, STD)])),
        BATCH, shuffle=True, **common)
    theirs = create_loader(
        photos.with_transform(None), (3, 224, 224), BATCH, is_training=True, color_jitter=None, mean=MEAN, std=STD,
        interpolation='bilinear', device=device, **common)
    transform = create_train_transform(input_size=224, mean=MEAN, std=STD, interpolation='bilinear')
    ours = create_train_loader(
        LongTailedDataset(photos, class_names=[str(c) for c in range(100)]), transform, batch_size=BATCH, seed=0,
        workers=workers, pin_memory=device.type == 'cuda', device=device)
    return {
        'torchvision': lambda epoch: public, "timm's create_loader": lambda epoch: theirs,
        '--loader timm': _started(ours)}


def _started(loader) -> Callable[[int], Iterable]:
    def start(epoch: int):
        epoch_plan(loader).set_epoch(epoch)
        return loader
    return start


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
