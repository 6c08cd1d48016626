"""Start-up on a list of a million images: seconds and memory before the first batch can be read.

    python benchmarks/startup_lists.py [--entries N] [--classes C]

Writes a long-tailed list into a temporary folder, and reads it in a fresh process: the list, labels, class names,
class prior, profile, fingerprint, and the order of the first epoch. The entries name one small image of each class over
and over: only the fingerprint opens any, 16 of them. Nothing is left behind.
"""
import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SECONDS, MEGABYTES = 5., 500.  # what it may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--entries', type=int, default=1_000_000, help='(default: %(default)s)')
    parser.add_argument('--classes', type=int, default=8142, help='(default: %(default)s)')
    parser.add_argument('--measure', metavar='DIR', help=argparse.SUPPRESS)  # what the fresh process is told
    args = parser.parse_args()
    if args.measure:
        measure(Path(args.measure))
        return
    if args.entries < args.classes:
        parser.error('every class needs an entry')
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), args.entries, args.classes)
        subprocess.run([sys.executable, __file__, '--measure', folder], check=True)


def write_data(folder: Path, entries: int, classes: int) -> None:
    """A training list of so many entries, as long as those of iNaturalist, and a validation list of one a class."""
    paths = [f'train_val2018/Plantae/{c:04d}/{c:032x}.jpg' for c in range(classes)]
    for c, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True)
        Image.new('RGB', (8, 8), (c % 256, c // 256, 0)).save(folder / path)
    rng = np.random.default_rng(0)
    tail = (classes * rng.random(entries - classes) ** 3).astype(int)  # an imbalance factor of some hundreds
    labels = rng.permutation(np.concatenate([np.arange(classes), tail]))
    for name, of_list in (('train', labels), ('val', np.arange(classes))):
        with open(folder / f'{name}.txt', 'w') as f:
            f.writelines(f'{paths[c]} {c}\n' for c in of_list.tolist())


def measure(folder: Path) -> None:
    """Print seconds (of the clock, and of the processor) and the peak of memory beyond what the imports take."""
    from timm_ltkd.data import create_splits, create_train_loader, fingerprint
    from timm_ltkd.prior import ClassPrior
    from timm_ltkd.report import data_profile
    imported = peak_megabytes()
    steps = {}

    def step(name: str, call):
        start = time.perf_counter(), time.process_time()
        result = call()
        steps[name] = time.perf_counter() - start[0], time.process_time() - start[1]
        return result

    splits = step('lists, labels, class names', lambda: create_splits(
        'lt/list', folder, train_list=folder / 'train.txt', val_list=folder / 'val.txt'))
    prior = step('class prior', lambda: ClassPrior(splits.train.class_counts, splits.class_names))
    profile = step('profile', lambda: data_profile(prior, splits.class_names))
    step('fingerprint', lambda: fingerprint(splits))
    loader = create_train_loader(splits.train, None, batch_size=256, seed=0)
    step('order of the first epoch', lambda: next(iter(loader.batch_sampler)))
    print(profile)
    for name, (clock, processor) in steps.items():
        print(f'{name:<28}{clock:7.2f} s {processor:7.2f} s of the processor')
    clock, processor = map(sum, zip(*steps.values(), strict=True))
    peak = peak_megabytes()
    print(f'{"together":<28}{clock:7.2f} s {processor:7.2f} s of the processor; at most {SECONDS:g} s wanted')
    print(f'peak memory {peak - imported:.0f} MB beyond the {imported:.0f} MB that the imports take; '
          f'at most {MEGABYTES:g} MB wanted')
    if processor > SECONDS or peak - imported > MEGABYTES:
        sys.exit(1)


def peak_megabytes() -> float:
    """The most memory that this process has had resident."""
    unit = 1e6 if sys.platform == 'darwin' else 1e6 / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
