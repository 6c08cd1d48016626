"""The same accuracy: students of the plain loop of public BKD code beside those of the package, on real data.

    python benchmarks/accuracy.py --data-dir DATA --teacher-checkpoint TEACHER [--epochs N] [--seeds N ...]

DATA holds image folders of 32 x 32 pixels, `train` (long-tailed already) and `--val-split`. Both train by BKD under the
same learning rates, each with its own draws; the package as a command line would: resident images, `--precision`.
"""
import time

import timm
import torch
from measure import create_parser
from ours import create_data, create_training, start
from plain import Pixels, PlainTraining, class_weights, create_loaders

import timm_ltkd  # noqa: F401
from timm_ltkd.data import create_splits
from timm_ltkd.engine.networks.trained import load_network
from timm_ltkd.metrics import long_tail_report
from timm_ltkd.report.table import Grid, markdown_grid, mean_and_deviation

FIGURES = ('balanced', 'many', 'medium', 'few')


def main(argv: list[str] | None = None) -> None:
    parser = create_parser('accuracy.py', __doc__.splitlines()[0], quick=False)
    add = parser.add_argument
    add('--data-dir', metavar='DIR', required=True)
    add('--val-split', metavar='NAME', default='test', help='(default: %(default)s)')
    add('--teacher', metavar='MODEL', default='resnet32', help='(default: %(default)s)')
    add('--teacher-checkpoint', metavar='PATH', required=True)
    add('--student', metavar='MODEL', default='resnet20', help='(default: %(default)s)')
    add('--epochs', metavar='N', type=int, default=8, help='(default: %(default)s)')
    add('--seeds', metavar='N', type=int, nargs='+', default=[0, 1, 2], help='(default: %(default)s)')
    add('--workers', metavar='N', type=int, default=4, help='of the plain loop (default: %(default)s)')
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    accelerator = start(args.device, args.precision)
    splits = create_splits('lt/folder', root=args.data_dir, val_split=args.val_split)
    train, test = Pixels.of(splits.train), Pixels.of(splits.val)
    data, rows = create_data(train, test), {'plain loop': [], 'ours': []}
    for seed in args.seeds:
        rates, report = ours(args, accelerator, data, seed)
        rows['ours'].append(report)
        rows['plain loop'].append(plain(args, train, test, data, rates, seed))
        figures = ', '.join(f'{name} {each[-1]["balanced"]:.2f}' for name, each in rows.items())
        print(f'seed {seed}: {figures}', flush=True)
    print('\n' + markdown_grid(Grid(['', *FIGURES], [
        [name, *(mean_and_deviation([report[figure] for report in each]) for figure in FIGURES)]
        for name, each in rows.items()])))


def ours(args, accelerator, data, seed: int) -> tuple[list[float], dict]:
    """The learning rate of each epoch, and the report of the student."""
    options = [
        '--seed', str(seed), '--epochs', str(args.epochs), '--val-interval', str(args.epochs), '--warmup-epochs', '1',
        '--decay-milestones', str(round(0.8 * args.epochs)), str(args.epochs)]
    training = create_training(accelerator, data, _student(args, data, seed), _teacher(args), options)
    seconds = time.perf_counter()
    while training.epoch < training.epochs:
        training.run_epoch()
    print(f'ours: {time.perf_counter() - seconds:.0f} s', flush=True)
    return [row['lr'] for row in training.record.history], training.evaluate()


def plain(args, train: Pixels, test: Pixels, data, rates: list[float], seed: int) -> dict:
    """The report of the student."""
    student = _student(args, data, seed).to(args.device)
    weights = class_weights(data.splits.train.class_counts)
    training = PlainTraining(student, _teacher(args).to(args.device).eval(), weights)
    batches, tests = create_loaders(train, test, workers=args.workers)
    seconds = time.perf_counter()
    for rate in rates:
        for group in training.optimizer.param_groups:
            group['lr'] = rate
        training.train_epoch(batches)
    print(f'plain loop: {time.perf_counter() - seconds:.0f} s', flush=True)
    student.eval()
    with torch.no_grad():
        logits, targets = zip(*((student(input.to(args.device)).cpu(), target) for input, target in tests), strict=True)
    return long_tail_report(torch.cat(logits), torch.cat(targets), data.prior)


def _student(args, data, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(args.student, num_classes=data.prior.num_classes)


def _teacher(args) -> torch.nn.Module:
    return load_network(args.teacher_checkpoint, args.teacher, None, '--teacher-checkpoint')


if __name__ == '__main__':
    main()
