"""The teacher's side of a distillation: its class means, its bank, and its figures."""
import logging
from argparse import Namespace
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from ..data import ResidentTrainLoader, stop_workers
from ..distill import DistillTask, Teacher, TeacherEnsemble, feature_dim
from ..options import teacher_names
from ..progress import told_if_slow
from .epoch.bank import BankedTeacher, open_run_bank
from .evaluate import OUR_FIGURES, answers, figures, near_chance
from .loaders import create_full_loader
from .run_data import Data
from .shared import Shared

_logger = logging.getLogger(__name__)


class Teaching:
    """What a run has to do with its teacher, beside the training step.

    Args:
        task: On its device.
        input_config: How the student's images are made.
        teacher_config: How the teacher's are, where they are made of the images themselves.
        shared: What is made once for several runs in this process.

    Attributes:
        bank: What the teacher says, where that is kept; None until `ready`, and without `--teacher-bank`.
    """

    def __init__(
            self,
            args: Namespace,
            accelerator: Accelerator,
            data: Data,
            task: DistillTask,
            input_config: dict[str, Any],
            teacher_config: dict[str, Any] | None,
            shared: Shared,
    ):
        self.args, self.accelerator, self.data, self.task, self.shared = args, accelerator, data, task, shared
        self.input_config, self.teacher_config = input_config, teacher_config
        self.bank: BankedTeacher | None = None

    def take_class_means(self) -> None:
        """Give the methods that want them the mean features of each teacher over the training images."""
        for i, (teacher, method) in enumerate(self.task.lessons):
            if method.needs_class_means:
                means = self.shared.once(('class means', i), partial(self._class_means, teacher))
                with told_if_slow(
                        'still making what the method learns from of the class means: for thousands of classes the '
                        'prototypes of krdistill take minutes, and rrd=class_mean none'):
                    method.set_class_means(means)

    def _class_means(self, teacher: Teacher) -> torch.Tensor:
        loader = self._loader_of(self.data.splits.train)
        try:
            return teacher_class_means(
                teacher, loader, self.accelerator, self.data.prior.num_classes, self.args.channels_last)
        finally:
            stop_workers(loader)

    def _loader_of(self, dataset: Dataset) -> DataLoader:
        """Images as the teacher is shown them in evaluation."""
        return create_full_loader(dataset, self.args, self.accelerator, self.teacher_config or self.input_config)

    def ready(self, loader: DataLoader | ResidentTrainLoader, apart: AbstractContextManager) -> None:
        """Ask the teacher once, and make what looks its answers up, if the options name a bank.

        What it answers faster by takes reading back to make: now, and not in the first step.

        Args:
            loader: What is trained on.
            apart: See `BankedTeacher`.
        """
        args = self.args
        batch = args.batch_size if args.torchcompile else 2  # compiled for batches of one size
        shape = (self.teacher_config or self.input_config)['input_size']
        noise = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(self.accelerator.device)
        kept_too = args.bank_features  # whatever the methods need
        with self.accelerator.autocast():
            said = self.task.ask_teacher(noise, [True] * len(self.task.lessons) if kept_too else None)
        if args.teacher_bank:
            bank = self.shared.once('teacher bank', partial(
                open_run_bank, args, self.accelerator, self.data, self.task, said, loader, self.input_config,
                self.teacher_config))
            self.bank = BankedTeacher(bank, self.task, self.accelerator, loader, args.channels_last, apart)

    def evaluate(self, dataset: Dataset, loader: DataLoader, where: str) -> dict[str, Any]:
        """Report of the teacher on the pixels that it teaches on; of several together, and the log tells of each.

        Args:
            dataset: What is evaluated.
            loader: Of it, as the student sees it.
            where: What the log calls it.
        """
        return self.shared.once(('teacher', where), partial(self._evaluate, dataset, loader, where))

    def _evaluate(self, dataset: Dataset, loader: DataLoader, where: str) -> dict[str, Any]:
        teacher = self.task.teacher
        own = loader if self.teacher_config is None else self._loader_of(dataset)
        try:
            if not isinstance(teacher, TeacherEnsemble):
                return self._tell(teacher, 'teacher', own, where)
            for name, member in zip(teacher_names(self.args), teacher.teachers, strict=True):
                self._tell(member, f'teacher {name}', own, where)
            return self._tell(teacher, 'all teachers together', own, where)
        finally:
            if own is not loader:
                stop_workers(own)

    def _tell(
            self, teacher: Teacher | TeacherEnsemble, name: str, loader: DataLoader, where: str) -> dict[str, Any]:
        """Report of one, or of all together, of which the log tells."""
        prior = self.data.prior
        outputs = answers(teacher, loader, self.args.channels_last, exact=True)  # its figures are those of its report
        logits = ((output.logits, *which) for output, *which in outputs)
        report = figures(logits, len(loader.dataset), self.accelerator, prior)
        told = ', '.join(f'{key} {report[key]:.2f}' for key in ('top1', *OUR_FIGURES) if key in report)
        _logger.info(f'{name} on {where}: {told}')
        if near_chance(report, prior.num_classes):
            doubt = (
                'was its training long enough, and its learning rate not too high (--teacher-config)?'
                if self.args.teacher_tune in ('all', 'head') else
                'was it trained long enough, is its label space that of the data (--teacher-class-map, '
                '--teacher-tune), and does it see what it was trained on (--teacher-img-size)?')
            _logger.warning(f'{name} is near chance (guessing has {100 / prior.num_classes:.2g} %): {doubt}')
        return report


@torch.no_grad()
def teacher_class_means(
        teacher: Teacher,
        loader: DataLoader,
        accelerator: Accelerator,
        num_classes: int,
        channels_last: bool = False,
) -> torch.Tensor:
    """One pass over the images; the same means on every process.

    Args:
        teacher: On the accelerator's device.
        loader: Yields (input, target, index), on the device, with every image of the training set once over all
            processes.
        num_classes: C; each class has an image.

    Returns:
        `[C, D]`, float64 (float32 where the device has no float64).
    """
    device = accelerator.device
    dtype = torch.float32 if device.type == 'mps' else torch.float64
    _logger.info(f"class means of the teacher's features over {len(loader.dataset)} training images")
    sums = torch.zeros(num_classes, feature_dim(teacher.model) + 1, dtype=dtype, device=device)  # and the counts
    for output, target, _ in answers(teacher, loader, channels_last, what='class means', needs_features=True):
        features = output.features.to(dtype)
        sums.index_add_(0, target, torch.cat([features, features.new_ones(len(features), 1)], dim=1))
    sums = accelerator.reduce(sums, 'sum')
    counts = sums[:, -1:]
    if int(counts.sum()) != len(loader.dataset):
        raise RuntimeError('the class means did not see each image exactly once')
    return sums[:, :-1] / counts
