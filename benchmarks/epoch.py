"""A whole BKD epoch, evaluation included: the plain loop of public code, timm's own distillation, and ours.

    python benchmarks/epoch.py [--device cuda] [--data-dir DATA]

ResNet-32 to ResNet-32, batches of 128, on random pixels as many as CIFAR-100-LT has (or on CIFAR itself). Public code
evaluates the teacher with the student after each epoch; we evaluate it once a run, of which a 200th part is counted.
With how often the host waits for the device while an epoch is trained.
"""
import argparse
import copy
import logging
import tempfile
import time
from functools import partial

import measure
import ours
import plain
import timm
import torch
from plain import MEAN, STD, Pixels, PlainTraining
from timm.data import create_loader
from timm.data.transforms import ToNumpy
from timm.task import LogitDistillationTask
from timm.utils import AverageMeter, accuracy
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

import timm_ltkd

EPOCHS = 200  # of a run


def main(argv: list[str] | None = None) -> None:
    parser = measure.create_parser('epoch.py', __doc__.splitlines()[0], repeats=3)
    parser.add_argument('--workers', type=int, default=4, help='of the baselines (default: %(default)s)')
    parser.add_argument('--data-dir', help='with the files of CIFAR-100 (default: random pixels)')
    parser.add_argument('--teacher-bank', action='store_true',
                        help='ours with a teacher bank that is full: 10 views of each image')
    args = measure.parse(parser, argv, pair=True)
    args.network = 'resnet32'
    if args.quick:
        args.network, args.repeats, args.workers, plain.BATCH = 'resnet20', 1, 0, 16
    logging.getLogger('timm').setLevel(logging.WARNING)
    torch.manual_seed(0)
    train, test = create_pixels(args)
    classes = max(train.targets) + 1
    student, teacher = (timm.create_model(args.network, num_classes=classes) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        bank = ['--teacher-bank', f'{folder}/bank', '--bank-views', '10'] if args.teacher_bank else []
        compare(args, train, test, student, teacher.eval(), bank)


def compare(
        args: argparse.Namespace,
        train: Pixels,
        test: Pixels,
        student: nn.Module,
        teacher: nn.Module,
        bank: list[str],
) -> None:
    """Print what was found.

    Args:
        args: Options.
        train: Images to train on.
        test: Images to evaluate.
        student: Its first weights.
        teacher: In eval mode.
        bank: Options of ours.
    """
    data = ours.create_data(train, test)
    training = ours.create_training(
        ours.start(args.device, args.precision), data, student, teacher, ['--epochs', str(ours.NEVER), *bank])
    weights = plain.class_weights(data.splits.train.class_counts)
    baseline = PlainTraining(*(copy.deepcopy(each).to(args.device) for each in (student, teacher)), weights)
    loaders = plain.create_loaders(train, test, args.workers)
    by_timm = TimmTraining(student, teacher, train, test, args.workers, args.device)
    batch = [tensor.to(args.device) for tensor in next(iter(loaders[0]))]
    deviations = measure.parity(
        partial(plain.loss_and_gradient, baseline, *batch), partial(ours.loss_and_gradient, training, *batch))

    def plain_epoch() -> None:
        baseline.train_epoch(loaders[0])
        baseline.evaluate(loaders[1])

    def timm_epoch() -> None:
        by_timm.train_epoch()
        by_timm.evaluate()
    if bank:
        for _ in range(10):
            training.run_epoch()
    start = time.perf_counter()
    training.evaluate_teacher()
    once = (time.perf_counter() - start) / EPOCHS
    times = measure.in_turns(
        {'plain': plain_epoch, 'timm': timm_epoch, 'ours': training.run_epoch}, args.repeats, args.device)
    if not args.quick:
        measure.refuse_if_busy()
    print(f'{measure.machine(args.device)}, {args.workers} workers, ours in {args.precision}, '
          f'{len(train)} + {len(test)} images, medians of {args.repeats}\n')
    measure.print_ratios('s', [
        ('public BKD code', times['plain'], times['ours'] + once, deviations),
        ('timm, LogitDistillationTask', times['timm'], times['ours'] + once, [''] * 3)], 1.)
    training.args.val_interval = ours.NEVER
    by_timm.train_loader = measure.Uncounted(by_timm.train_loader)
    training.loop.loader = measure.Uncounted(training.loop.loader)
    waits = {
        'public BKD code': partial(baseline.train_epoch, measure.Uncounted(loaders[0])), 'timm': by_timm.train_epoch,
        'ours': training.run_epoch}
    for name, train_epoch in waits.items():
        print(f'{name}: the host waits {measure.count_waits(train_epoch, args.device)} times while an epoch is trained')


def create_pixels(args: argparse.Namespace) -> tuple[Pixels, Pixels]:
    """Training and test images."""
    if args.quick:
        return plain.random_pixels(classes=5, largest=20, of_test=2)
    if not args.data_dir:
        return plain.random_pixels()
    return tuple(
        Pixels.of(timm_ltkd.create_dataset('lt/cifar100', root=args.data_dir, split=split, **selection))
        for split, selection in (('train', {'imbalance_factor': 100}), ('validation', {})))


class TimmTraining:
    """A student that learns by timm's distillation task from timm's loader, as timm's train.py does.

    Args:
        student: Is copied.
        teacher: Likewise.
        train: Images to train on; augmented as the others are, for timm has no crop after padding.
        test: Images to evaluate.
        workers: Of each loader.
        device: Where to.
    """

    def __init__(
            self,
            student: nn.Module,
            teacher: nn.Module,
            train: Pixels,
            test: Pixels,
            workers: int,
            device: torch.device,
    ):
        self.student, self.device = copy.deepcopy(student).to(device), device
        self.task = LogitDistillationTask(
            self.student, copy.deepcopy(teacher).to(device), nn.CrossEntropyLoss(), distill_loss_weight=1.,
            temperature=plain.TEMPERATURE, device=device, verbose=False)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.1, momentum=0.9, weight_decay=2e-4)
        augment = transforms.Compose([
            transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), ToNumpy()])
        self.train_loader = self._loader(train, workers, augment, is_training=True)
        self.test_loader = self._loader(test, workers, ToNumpy())

    def _loader(self, pixels: Pixels, workers: int, transform, **options) -> DataLoader:
        pixels = pixels.with_transform(None)
        loader = create_loader(
            pixels, (3, 32, 32), plain.BATCH, mean=MEAN, std=STD, num_workers=workers, device=self.device,
            pin_memory=self.device.type == 'cuda', persistent_workers=workers > 0, **options)
        pixels.transform = transform
        return loader

    def train_epoch(self) -> None:
        """Train on each batch; timm drops the last one if it is not full."""
        losses = AverageMeter()
        self.task.train()
        for i, (input, target) in enumerate(self.train_loader):
            loss = self.task(input, target)['loss']
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if i % 50 == 0:
                losses.update(loss.item(), len(target))

    @torch.no_grad()
    def evaluate(self) -> None:
        """The student."""
        meters = AverageMeter(), AverageMeter(), AverageMeter()
        self.student.eval()
        for input, target in self.test_loader:
            logits = self.student(input)
            values = nn.functional.cross_entropy(logits, target), *accuracy(logits, target, topk=(1, 5))
            for meter, value in zip(meters, values, strict=True):
                meter.update(value.item(), len(target))


if __name__ == '__main__':
    main()
