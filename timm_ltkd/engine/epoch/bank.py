"""The teacher bank of a run: what it must have been filled with, and what it says of each batch."""
import hashlib
import json
import logging
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from shutil import disk_usage
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ...data import Views, epoch_plan, epoch_views, views_per_image
from ...distill import DistillTask, Output, RowLayout, Teacher, TeacherBank, open_bank
from ...errors import UserError
from ...options import VIEW
from ..processes.launch import on_main
from ..run_data import Data

Images = torch.Tensor | Views

_logger = logging.getLogger(__name__)
# our choice: multiples of it gave the same bits on a CPU as any larger batch, for all networks tried; on a GPU so few
# sizes that cuDNN can try its kernels for each
_AT_ONCE = 16

VIEW_OPTIONS = VIEW | {'resident_size', 'teacher_resize'}


def check_views(args: Namespace, loader: DataLoader, data: Data) -> None:
    """Whether the views that a loader shows can be kept in a bank, if the options ask for one.

    Raises:
        UserError: They cannot be numbered; or as many logits are to be kept as there are.
    """
    if not getattr(args, 'teacher_bank', None):
        return
    if views_per_image(loader) is None:
        raise UserError(
            f'--teacher-bank: the views of an image cannot be numbered by --loader {args.loader} with this '
            'augmentation; use --loader resident with --train-crop-mode pad and flips alone, or let there be a fixed '
            'number of views (--bank-views 10)')
    if args.bank_top_k is not None and args.bank_top_k >= data.prior.num_classes:
        raise UserError(
            f'--bank-top-k {args.bank_top_k}: there are {data.prior.num_classes} logits; give less, or leave it out')


class BankedTeacher:
    """What the teacher of a run says of each batch, from a bank where it is known.

    Args:
        bank: For the teacher of `task` and the views of `loader`.
        task: Asked about what is not known.
        loader: What is trained on.
        channels_last: Memory layout of the images that the teacher is asked about.
        apart: Held meanwhile, see `RECORDING`.
    """

    def __init__(
            self,
            bank: TeacherBank,
            task: DistillTask,
            accelerator: Accelerator,
            loader: DataLoader,
            channels_last: bool,
            apart: AbstractContextManager,
    ):
        self.bank, self.task, self.accelerator, self.loader, self.apart = bank, task, accelerator, loader, apart
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.views: tuple[torch.Tensor, ...] = ()
        self.shown = self.answered = 0  # images of this run, whoever shares the bank

    def start(self) -> None:
        """Find out what the loader shows in the epoch that it is set to."""
        self.views = epoch_views(self.loader).split(epoch_plan(self.loader).batch_sizes())

    def rows(self, step: int, input: Images | Callable[[], Images]) -> torch.Tensor:
        """What the teacher says of the images of a step of the epoch, packed, for `unpack`.

        Args:
            step: From 0.
            input: The images, on the device; or what makes them, called only if the teacher is asked.
        """
        def images() -> Images:
            return (input() if callable(input) else input).contiguous(memory_format=self.layout)

        with self.apart, self.accelerator.autocast():
            return self.bank.rows(self.task.ask_teacher, images, self.views[step], self._count)

    def flush(self) -> None:
        """Keep what was new in the epoch."""
        self.bank.flush()

    def unpack(self, rows: torch.Tensor) -> Output | tuple[Output, ...]:
        """What `rows` gave, for the task."""
        return self.bank.unpack(rows)

    def _count(self, shown: int, answered: int) -> None:
        self.shown += shown
        self.answered += answered

    def tell(self) -> None:
        """Say in the log how much the bank was of use."""
        counts = torch.tensor([self.shown, self.answered], device=self.accelerator.device)
        shown, answered = self.accelerator.reduce(counts, 'sum').tolist()
        _logger.info(
            f'{self.bank.name} answered {answered} of {shown} showings; it knows '
            f'{_share(self.bank.file.marked(), self.bank.file.count)}')


def open_run_bank(
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        task: DistillTask,
        said: Output | tuple[Output, ...],
        loader: DataLoader,
        input_config: dict[str, Any],
        teacher_config: dict[str, Any] | None,
) -> TeacherBank:
    """The bank that the options name, made where it is not there, for this run's teacher, data and views.

    Args:
        task: With the teacher, on its device.
        said: What the teacher says of any images, in the run's precision.
        loader: What is trained on; `check_views` has passed it.
        input_config: How the student's images are made.
        teacher_config: How the teacher's are, where they are made of the image itself.

    Raises:
        UserError: The bank was filled with something else, or cannot be made.
    """
    views, device = views_per_image(loader), accelerator.device
    key = {
        'teacher': [_architecture(teacher) for teacher in task.teacher.members],
        'teacher weights': [_weights_key(teacher) for teacher in task.teacher.members],
        'data': data.fingerprint,
        'images': len(data.splits.train),
        'classes': data.prior.num_classes,
        'views': views,
        'view': _view(args, input_config, teacher_config),
        "teacher's pixels": [_pixels(teacher) for teacher in task.teacher.members],
        'precision': {
            'device': device.type,
            'autocast': str(accelerator.mixed_precision),
            'channels_last': args.channels_last,
            'torchcompile': args.torchcompile,
        },
    }
    options = dict(
        path=args.teacher_bank, key=key, layout=RowLayout.of(said, args.bank_dtype, args.bank_top_k),
        count=views * len(data.splits.train))
    on_main(accelerator, lambda: open_bank(**options) and None)  # what is wrong is told once
    bank = open_bank(**options, device=device, at_once=_at_once(args, device))
    known = bank.file.marked()
    _logger.info(
        f'{bank.name} knows {_share(known, bank.file.count)} ({views} of each image), '
        f'{bank.file.nbytes / 1e6:,.1f} MB when it knows all')
    to_come, free = bank.file.nbytes * (1 - known / bank.file.count), disk_usage(args.teacher_bank).free
    if to_come > free:
        _logger.warning(
            f'{bank.name} may grow by {to_come / 1e9:,.1f} GB, and the disk has {free / 1e9:,.1f} GB left, for '
            'checkpoints too: --bank-top-k 100, --bank-dtype float16 or fewer --bank-views take less')
    return bank


def _at_once(args: Namespace, device: torch.device) -> int:
    """Images that a teacher is asked about are a multiple of this."""
    if args.batch_size % _AT_ONCE == 0 and not args.torchcompile:
        return _AT_ONCE
    return args.batch_size if args.torchcompile or device.type == 'cpu' else 1


def _architecture(teacher: Teacher) -> str:
    network = teacher.networks[0]
    return (getattr(network, 'pretrained_cfg', None) or {}).get('architecture') or type(network).__name__


def _weights_key(teacher: Teacher) -> str:
    """SHA-256 of a teacher's weights, of the options that it was made with, and of the classes that it teaches."""
    network, digest = teacher.networks[0], hashlib.sha256()
    tensors = dict(network.state_dict(), class_map=teacher.class_map)
    digest.update(json.dumps(getattr(network, 'model_args', {}), sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        if tensor is not None:
            digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}'.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _view(
        args: Namespace, input_config: dict[str, Any], teacher_config: dict[str, Any] | None) -> dict[str, Any]:
    """What makes the view of a number."""
    view = {key: getattr(args, key, None) for key in VIEW_OPTIONS}
    view |= {key: list(input_config[key]) for key in ('input_size', 'mean', 'std')}
    if args.bank_views is not None:
        view |= {'seed': args.seed, 'loader': args.loader}
    return view | {'resized': teacher_config}


def _pixels(teacher: Teacher) -> dict[str, Any]:
    """What a teacher makes of the pixels that it is given."""
    pixels = teacher.pixels
    return {
        'size': pixels.size, 'interpolation': pixels.mode,
        'mean': pixels.mean.flatten().tolist(), 'std': pixels.std.flatten().tolist()}


def _share(known: int, count: int) -> str:
    return f'{100 * known / count:.3g} % of {count} views'
