"""A whole training run: from a network and data to a folder with weights and a report."""
import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import nn

from ..data import stop_workers
from ..distill import DistillMethod, Teacher, TeacherEnsemble
from ..errors import UserError
from ..options import dump_config, listed
from ..report import plot_class_profile, write_summary
from .epoch.loop import eval_network
from .plan import log_plan
from .processes.launch import finish_trackers, on_main, start_trackers
from .run_data import Data
from .run_folder.checkpoint import check_same_epoch, load_checkpoint, save_checkpoint
from .run_folder.differences import tell_changed
from .run_folder.finished import finish, git_commit
from .run_folder.folder import RunFolder, check_shared
from .shared import Shared
from .training import Training

_logger = logging.getLogger(__name__)
_MEASURING = ('crop_pct', 'interpolation', 'many_shot', 'few_shot')


class Result(NamedTuple):
    """Reports of a finished run: of what was trained, and of its teacher."""
    student: dict[str, Any]
    teacher: dict[str, Any] | None


class Run:
    """One run: made ready and resumed where its folder says so; `begin`, `train` and `finish` it, in `guarded`.

    Args:
        network: What to train; its `pretrained_cfg` says how images are to reach it.
        folder: Where to.
        teacher: With `method`: what to learn from.
        method: How.
        shared: What is made once for several runs.

    Raises:
        UserError: A checkpoint that doesn't fit, a folder that cannot be written, …
    """

    def __init__(
            self,
            args: Namespace,
            accelerator: Accelerator,
            data: Data,
            network: nn.Module,
            folder: RunFolder,
            *,
            teacher: Teacher | TeacherEnsemble | None = None,
            method: DistillMethod | None = None,
            shared: Shared | None = None,
    ):
        self.accelerator, self.data, self.folder = accelerator, data, folder
        self.teacher_report: dict[str, Any] | None = None
        if folder.resume:  # before its checkpoint is looked at
            on_main(accelerator, folder.reserve)
        try:
            state = load_checkpoint(folder.last) if folder.resume else None
            check_same_epoch(state, accelerator, folder.last)
            self.training = Training(
                args, accelerator, data, network, teacher, method, resumed=state is not None, shared=shared)
            if state is not None:
                self.training.restore(state, folder)
                done, epochs = self.training.epoch, self.training.epochs
                _logger.info(f'resuming {folder.path} after epoch {done} of {epochs}' if done < epochs else
                             f'resuming {folder.path}, which is trained to the end, and measured again')
                if changed := tell_changed(args, folder.path / 'args.yaml', _MEASURING):
                    _logger.warning(f'figures of the epochs before were measured otherwise: {changed}')
            folder.made, path = on_main(accelerator, lambda: folder.claim(dump_config(args)))
            folder.place(path)
            check_shared(folder, accelerator)
            if state is None:
                nothing = 'nothing to resume with these settings; ' if args.resume == 'auto' else ''
                _logger.info(f'{nothing}a new run in {folder.path}')
        except BaseException:
            folder.release()
            raise

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Inside, a mistake that leaves nothing to resume takes the folder away; in any case loader workers end, and
        the folder is free for others."""
        try:
            yield
        except UserError:
            self.folder.abandon()  # by any process: it may be the only one that knows
            raise
        finally:
            for loader in (self.training.train_loader, self.training.val_loader):
                stop_workers(loader)
            self.folder.release()

    def begin(self) -> None:
        """What comes before the first epoch: trackers, the class profile, and the teacher's figures."""
        training = self.training
        start_trackers(self.accelerator, training.args.log_with, str(self.folder.path), vars(training.args))
        if self.accelerator.is_main_process:
            plot_class_profile(
                self.folder.path / 'class_profile.png', self.data.prior, self.data.splits.class_names)
        self.teacher_report = training.evaluate_teacher()

    def train(self) -> None:
        """All epochs that are left, and checkpoints as often as the options say."""
        training, accelerator = self.training, self.accelerator
        if training.epoch < training.epochs:
            training.record.note_commit(git_commit())
        while training.epoch < training.epochs:
            told = training.run_epoch()
            row = training.record.history[-1]
            accelerator.log({key: value for key, value in row.items() if key != 'epoch'}, step=row['epoch'])
            if training.epoch % training.args.checkpoint_interval == 0 or training.epoch == training.epochs:
                self._save()
            _logger.info(told)  # now that it cannot be lost, where each epoch is saved

    def _save(self) -> None:
        """Write what a resume needs, then the rows of the epochs so far, in a file that others may keep open."""
        training, accelerator = self.training, self.accelerator
        save_checkpoint(self.folder.last, training.epoch, training.state(), accelerator, training.rng_state())
        if accelerator.is_main_process:
            write_summary(self.folder.summary, training.record.history)

    def finish(self) -> Result:
        """What comes after the last epoch: weights and report."""
        training, accelerator, data = self.training, self.accelerator, self.data
        args, teacher_report, holdout_reports = training.args, self.teacher_report, None
        if data.splits.holdout is not None:
            training.take_best()
            holdout_reports = {'student': training.evaluate(), 'teacher': teacher_report}
            training.watch_test()
            teacher_report = training.evaluate_teacher()
        report = training.evaluate()
        if inert := training.record.method_report.get('inert'):
            names = ' '.join(listed(args.kd))
            _logger.warning(f'--kd {names}: in the last epoch {" and ".join(inert)} changed next to nothing')
        if accelerator.is_main_process:
            write_summary(self.folder.summary, training.record.history)
            finish(self.folder, args, accelerator, data, eval_network(training.task), report, teacher_report,
                   training.record, holdout_reports)
        finish_trackers(accelerator)
        accelerator.wait_for_everyone()
        return Result(report, teacher_report)


def fit(*args, **kwargs) -> Result:
    """Train a network to the end, resuming where the folder says so, and write weights and report.

    Args: As `Run`.

    Returns:
        The reports of the network and of its teacher.

    Raises:
        UserError: As `Run`; a loss that is not finite, …
    """
    run = Run(*args, **kwargs)
    with run.guarded():
        log_plan(run.training)
        run.begin()
        run.train()
        return run.finish()
