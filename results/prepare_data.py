"""Write CIFAR-100-LT as image folders, as the runs of `rows.yaml` take it.

    python results/prepare_data.py CIFAR DATA [--download]

CIFAR is where torchvision finds CIFAR-100. DATA gets `lt100`, `lt50` and `lt10`, each with `train` (the selection of
Cao et al. 2019 at this imbalance factor) and `test`; and `lt100_left_out`, whose `left_out` has up to 40 images of a
class that factor 10 has and factor 100 has not. Files are named by their place in the selection, test images by their
place in the official file, so that folders list images in one order everywhere, and runs draw alike.
"""
import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR100

from timm_ltkd.data import long_tail_counts, long_tail_indices

FACTORS = (100, 50, 10)
LEFT_OUT = 40


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='prepare_data.py', description=__doc__.splitlines()[0])
    parser.add_argument('cifar', metavar='CIFAR', type=Path)
    parser.add_argument('data', metavar='DATA', type=Path)
    parser.add_argument('--download', action='store_true')
    args = parser.parse_args(argv)
    train, test = (CIFAR100(str(args.cifar), train=part, download=args.download) for part in (True, False))
    largest = np.bincount(train.targets).min()
    chosen = {factor: long_tail_counts(100, int(largest), factor, 'exp') for factor in FACTORS}
    for factor, counts in chosen.items():
        folder = args.data / f'lt{factor}'
        _write(train, folder / 'train', _selection(train.targets, counts))
        _write(test, folder / 'test', [(index, index) for index in range(len(test))])
    rest = [
        (rank, index) for rank, index in _selection(train.targets, chosen[10])
        if 0 <= rank - chosen[100][train.targets[index]] < LEFT_OUT]
    folder = args.data / 'lt100_left_out'
    _write(train, folder / 'left_out', rest)
    if not (folder / 'train').exists():
        os.symlink(Path('..', 'lt100', 'train'), folder / 'train')


def _selection(targets: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int]]:
    """Place within its class, and index, of each image that is chosen."""
    indices = long_tail_indices(targets, counts, seed=0)
    ranks = np.concatenate([np.arange(count) for count in counts])
    return list(zip(ranks.tolist(), indices.tolist(), strict=True))


def _write(images: CIFAR100, folder: Path, files: Sequence[tuple[int, int]]) -> None:
    """One PNG for each (number in its name, index)."""
    for number, index in files:
        image, target = images[index]
        path = folder / f'{target:03d}_{images.classes[target]}'
        path.mkdir(parents=True, exist_ok=True)
        image.save(path / f'{number:05d}.png')
    print(f'{len(files)} images in {folder}')


if __name__ == '__main__':
    main()
