"""A whole training run: from a network and data to a folder with weights and a report."""
import logging
from argparse import Namespace
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import nn

from ..data import stop_workers
from ..distill import DistillMethod, DistillTask, Teacher, TeacherEnsemble
from ..errors import UserError
from ..report import plot_class_profile, write_summary
from .checkpoint import load_checkpoint, save_checkpoint
from .export import finish
from .folder import RunFolder
from .launch import finish_trackers, on_main, start_trackers
from .loop import eval_network
from .plan import log_plan
from .recipe import Data, listed
from .training import Training

_logger = logging.getLogger(__name__)


class Result(NamedTuple):
    """Reports of a finished run: of what was trained, and of its teacher."""
    student: dict[str, Any]
    teacher: dict[str, Any] | None


def fit(
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        network: nn.Module,
        folder: RunFolder,
        config: str,
        *,
        teacher: Teacher | TeacherEnsemble | None = None,
        method: DistillMethod | None = None,
) -> Result:
    """Train a network to the end, resuming where the folder says so, and write weights and report.

    Args:
        args: Options of the run.
        accelerator: Device, precision, processes.
        data: What to train on.
        network: What to train; its `pretrained_cfg` says how images are to reach it.
        folder: Where to.
        config: The options as YAML, for args.yaml.
        teacher: With `method`: what to learn from.
        method: How.

    Returns:
        The reports of the network and of its teacher.

    Raises:
        UserError: A loss that is not finite, a checkpoint that doesn't fit, …
    """
    state = load_checkpoint(folder.last) if folder.resume else None
    training = Training(args, accelerator, data, network, teacher, method, resumed=state is not None)
    if state is not None:
        training.restore(state, folder)
        _logger.info(f'resuming {folder.path} after epoch {training.epoch} of {training.epochs}')
    folder.made = on_main(accelerator, lambda: folder.claim(config))
    try:
        return _run(training, folder)
    except UserError:
        folder.abandon()  # by any process: it may be the only one that knows
        raise
    finally:
        for loader in (training.train_loader, training.val_loader):
            stop_workers(loader)


def _run(training: Training, folder: RunFolder) -> Result:
    """From the folder being claimed to the report."""
    args, accelerator, data = training.args, training.accelerator, training.data
    start_trackers(accelerator, args.log_with, str(folder.path), vars(args))
    if accelerator.is_main_process:
        plot_class_profile(folder.path / 'class_profile.png', data.prior)
    log_plan(training)
    teacher_report = training.evaluate_teacher() if isinstance(training.task, DistillTask) else None
    while training.epoch < training.epochs:
        training.run_epoch()
        if accelerator.is_main_process:
            write_summary(folder.summary, training.history)
        row = training.history[-1]
        accelerator.log({key: value for key, value in row.items() if key != 'epoch'}, step=row['epoch'])
        save_checkpoint(folder.last, training.epoch, training.state(), accelerator)
    holdout_reports = None
    if data.splits.holdout is not None:
        training.take_best()
        holdout_reports = {'student': training.evaluate(), 'teacher': teacher_report}
        training.watch_test()
        teacher_report = teacher_report and training.evaluate_teacher()
    report = training.evaluate()
    if inert := training.method_report.get('inert'):
        names = ' '.join(listed(args.kd))
        _logger.warning(f'--kd {names}: in the last epoch {" and ".join(inert)} changed next to nothing')
    if accelerator.is_main_process:
        write_summary(folder.summary, training.history)
        finish(folder, args, accelerator, data, eval_network(training.task), report, teacher_report,
               training.history, training.best, training.method_report, holdout_reports)
        folder.sweep()
    finish_trackers(accelerator)
    accelerator.wait_for_everyone()
    return Result(report, teacher_report)
