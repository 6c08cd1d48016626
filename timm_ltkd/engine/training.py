"""The state of a training run, and how an epoch changes it."""
import logging
import warnings
from argparse import Namespace
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.task import TrainingTask
from timm.utils import distribute_bn, unwrap_model
from torch import nn

from ..data import epoch_plan, stop_workers
from ..distill import DistillMethod, Teacher, TeacherEnsemble, plain_classifier
from ..errors import UserError, last_line
from .build import compile_in_place, create_mixing, create_task
from .epoch.graph import RECORDING
from .epoch.loop import EpochLoop, eval_network
from .epoch.optimizer import create_optimizer, create_schedule
from .epoch.watch import LossWatch
from .evaluate import OUR_FIGURES, TIMM_FIGURES, evaluate
from .loaders import create_full_loader, create_loaders, host_view
from .networks.input import INPUT
from .record import Record, epoch_line
from .run_data import Data
from .run_folder.checkpoint import check_state, rng_state, set_rng_state
from .run_folder.folder import RunFolder
from .shared import Shared
from .stages import SecondStageTask
from .teaching import Teaching

_logger = logging.getLogger(__name__)
_RUINED = 'weights that are not finite'


class Training:
    """The state of a run between epochs, and how it is saved and restored.

    Args:
        network: What to train.
        teacher: With `method`: what to learn from.
        method: How.
        resumed: A state to `restore` follows, so that what it holds is not computed.
        shared: What is made once for several runs in this process.

    Attributes:
        turn: Around each step, where several runs are trained at once.
        teaching: The teacher's side; None without a teacher.
    """

    def __init__(
            self,
            args: Namespace,
            accelerator: Accelerator,
            data: Data,
            network: nn.Module,
            teacher: Teacher | TeacherEnsemble | None = None,
            method: DistillMethod | None = None,
            resumed: bool = False,
            shared: Shared | None = None,
    ):
        self.shared, self.turn = shared or Shared(), None
        self.apart = RECORDING if args.cuda_graph else nullcontext()  # for what is done beside the steps
        set_seed(args.seed, device_specific=True)
        self.args, self.accelerator, self.data = args, accelerator, data
        accelerator.gradient_accumulation_steps = args.grad_accum_steps
        _reset_loss_scale(accelerator)
        self.input_config = {key: network.pretrained_cfg[key] for key in INPUT}
        teacher_config = host_view(args, teacher, self.input_config)
        self.train_loader, self.val_loader = create_loaders(
            args, accelerator, data, self.input_config, teacher_config, self.shared)
        self.measured = data.splits.watched
        self.watched = 'this data' if data.splits.holdout is None else 'the holdout'  # what the log calls it
        self.mixing = create_mixing(args, accelerator, data, self.input_config)
        self.task = self._create_task(network, teacher, method)
        self.teaching = None if teacher is None else Teaching(
            args, accelerator, data, self.task, self.input_config, teacher_config, self.shared)
        if self.teaching and not resumed:
            self.teaching.take_class_means()
        if args.model_ema:  # from the raw network, before compile and DDP
            self.task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
        if args.torchcompile:
            compile_in_place(self.task, args.torchcompile, args.torchcompile_mode)
        optimizer = create_optimizer(args, self.task.get_trainable_module(), accelerator.mixed_precision)
        self.scheduler, self.epochs = create_schedule(
            args, optimizer, updates_per_epoch=-(-len(self.train_loader) // args.grad_accum_steps))
        self.optimizer = self._prepare(optimizer)
        self.finite = self._finite_at_start()
        self.watch = LossWatch(accelerator, self._also_watched, args.checkpoint_interval)
        if self.teaching:
            self.teaching.ready(self.train_loader, self.apart)
        self.loop = EpochLoop(
            self.task, self.train_loader, self.optimizer, accelerator, args, self.watch, scheduler=self.scheduler,
            mixing=self.mixing, bank=self.teaching and self.teaching.bank)
        self.epoch = 0
        self.record = Record()

    def _create_task(
            self, network: nn.Module, teacher: Teacher | TeacherEnsemble | None, method: DistillMethod | None,
    ) -> TrainingTask:
        """The task on its device."""
        args, device = self.args, self.accelerator.device
        task = create_task(args, self.data, network, teacher, method)
        if device.type == 'mps':
            _drop_float64(task)
        task.to(device=device)
        if args.channels_last:
            nn.Module.to(task, memory_format=torch.channels_last)  # timm's own `to` did not take it before 1.0.31
        return task

    def _prepare(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let Accelerate wrap the task's trainable module, and an optimizer of it."""
        task, accelerator = self.task, self.accelerator
        with warnings.catch_warnings():  # newer torch has another name for the option that Accelerate passes to DDP
            warnings.filterwarnings('ignore', '.*broadcast_buffers', FutureWarning)
            task.trainable_module, optimizer = accelerator.prepare(task.get_trainable_module(), optimizer)
        # the loop and not the module autocasts: evaluation has a precision of its own
        accelerator.unwrap_model(task.trainable_module, keep_fp32_wrapper=False)
        return optimizer

    def decode(self) -> None:
        """Decode images that stay in memory now, and not when the first batch is asked for."""
        for loader in (self.train_loader, self.val_loader):
            if (images := getattr(loader, 'images', None)) is not None:
                _ = images.images

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, but the random generators."""
        scaler, task = self.accelerator.scaler, self.task
        return self.record.state() | {
            'model': unwrap_model(task.trainable_module).state_dict(),
            'ema': task.get_trainable_module(ema=True).module.state_dict() if task.has_ema() else None,
            'optimizer': self.optimizer.state_dict(),
            'scheduler': self.scheduler.state_dict(),
            'plateau': self._plateau().state_dict() if self._plateau() is not None else None,
            'scaler': scaler.state_dict() if scaler is not None else None,
            'updates': self.loop.updates,
        }

    def rng_state(self) -> dict[str, Any]:
        """Where this run's random generators are."""
        return rng_state() if self.turn is None else self.turn.rng

    def restore(self, state: dict[str, Any], folder: RunFolder) -> None:
        """Continue from a state that `load_checkpoint` gave."""
        try:
            check_state(state)
            unwrap_model(self.task.trainable_module).load_state_dict(state['model'])
            if self.task.has_ema():
                self.task.get_trainable_module(ema=True).module.load_state_dict(state['ema'])
            self.optimizer.load_state_dict(state['optimizer'])
            self.scheduler.load_state_dict(state['scheduler'])
            if self._plateau() is not None:
                self._plateau().load_state_dict(state['plateau'])
            if self.accelerator.scaler is not None and state['scaler'] is not None:
                self.accelerator.scaler.load_state_dict(state['scaler'])
            self._restore_draws(state['rng'])
        except (RuntimeError, LookupError, ValueError, AttributeError, TypeError, OverflowError) as e:
            raise UserError(
                f'the checkpoint in {folder.last} is of another architecture or recipe ({last_line(e)[:120]})') from e
        self.epoch, self.loop.updates = state['epoch'], state['updates']
        self.record.restore(state)
        if self.data.splits.holdout is None:
            self.record.choose_by(self.args.eval_metric)

    def _restore_draws(self, states: list[dict[str, Any]]) -> None:
        """Put the random generators where they were, those of each process."""
        if len(states) == self.accelerator.num_processes:
            set_rng_state(states[self.accelerator.process_index])
        else:
            _logger.warning(
                f'the checkpoint was written by {len(states)} processes and {self.accelerator.num_processes} '
                'resume it: the run goes on, but not to the same last bit')

    def _plateau(self) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
        """torch's schedule inside timm's plateau, whose own state leaves out the epochs that were no better."""
        return getattr(self.scheduler, 'lr_scheduler', None)

    def run_epoch(self) -> str:
        """Train one epoch, evaluate if it is due, and step the schedule; what to tell of it."""
        args, epoch = self.args, self.epoch
        epoch_plan(self.train_loader).set_epoch(epoch)
        (self.task if self.teaching else self.task.criterion).set_epoch(epoch)
        if self.turn is not None:
            self.turn.new_epoch()
        lr = max(group['lr'] for group in self.optimizer.param_groups)
        means = self.loop.run(epoch, self.epochs, self.turn)
        seconds = means.pop('seconds')
        self._share_batch_norm()
        self._check_weights(epoch)
        row = {'epoch': epoch, 'train_loss': means.pop('loss')}
        report = None
        if (epoch + 1) % args.val_interval == 0 or epoch + 1 == self.epochs:
            report = self._evaluate_after(epoch)
            row |= {f'eval_{key}': report[key] for key in TIMM_FIGURES if key in report}
        row['lr'] = lr
        row |= {f'train_{key}': value for key, value in means.items()}
        if report is not None:
            row |= {f'eval_{key}': report[key] for key in OUR_FIGURES if key in report}
            self._note_best(report, epoch)
        row |= self._method_figures()
        self.record.history.append(row)
        self.epoch = epoch + 1
        self.scheduler.step(self.epoch, None if report is None else report.get(args.eval_metric))
        images = sum(epoch_plan(self.train_loader).batch_sizes()) * self.accelerator.num_processes
        if self.teaching and self.teaching.bank and self.epoch == self.epochs:
            self.teaching.bank.tell()
        where = '' if self.data.splits.holdout is None else self.watched
        return epoch_line(row, self.epochs, seconds, images / seconds, where)

    def _also_watched(self) -> dict[str, torch.Tensor]:
        """What is read with the losses at the end of an epoch: the method's sums, and how many weights are ruined."""
        weights = unwrap_model(self.task.trainable_module).state_dict()
        ruined = torch.stack([weights[name].isfinite().logical_not().sum() for name in self.finite]).sum()
        return {_RUINED: ruined} | (self.task.method.statistics() if self.teaching else {})

    def _finite_at_start(self) -> list[str]:
        """Names of the weights and buffers that are to stay so: some networks have a mask, or bounds, of infinities."""
        weights = unwrap_model(self.task.trainable_module).state_dict()
        finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
        return [name for name, there in zip(weights, finite, strict=True) if there]

    def _method_figures(self) -> dict[str, float]:
        """What the method has counted in this epoch over all processes, for the summary; it then counts anew."""
        if not self.teaching:
            return {}
        method = self.task.method
        self.record.method_report = method.describe_statistics(
            {name: value for name, value in self.watch.sums.items() if name != _RUINED})
        method.reset_statistics()
        return {
            f'{name}_{group}': value
            for name, figures in self.record.method_report.items() if isinstance(figures, dict)
            for group, value in figures.items()}

    def evaluate(self, as_trained: bool = False) -> dict[str, Any]:
        """Report of the network as it would be exported now (its moving average where there is one); in the run's
        precision or not."""
        network = eval_network(self.task)
        with self.apart, plain_classifier(network):
            return evaluate(
                network, self.val_loader, self.accelerator, self.data.prior, self.args.channels_last, as_trained)

    def _evaluate_after(self, epoch: int) -> dict[str, Any]:
        """`evaluate`, where an error says when: the epoch's last step may have ruined the weights.

        What is reported of the last epoch is measured in float32, as `validate.py` and others would; and so is each
        that chooses something, the epoch to export or when the learning rate falls.
        """
        chooses = self.data.splits.holdout is not None or self.args.sched == 'plateau'
        try:
            return self.evaluate(as_trained=epoch + 1 < self.epochs and not chooses)
        except UserError as e:
            raise UserError(f'after epoch {epoch + 1}, step {len(self.train_loader)}: {last_line(e)}') from e

    def watch_test(self) -> None:
        """From now on evaluate on the split that was left alone while the holdout was watched."""
        stop_workers(self.val_loader)
        self.measured, self.watched = self.data.splits.val, 'this data'
        self.val_loader = create_full_loader(self.measured, self.args, self.accelerator, self.input_config)

    def take_best(self) -> None:
        """Make the weights that the holdout chose those that are evaluated and exported."""
        eval_network(self.task).load_state_dict(self.record.best_weights)
        metric, value, epoch = (self.record.best[key] for key in ('metric', 'value', 'epoch'))
        _logger.info(f'the weights of epoch {epoch + 1} are taken: {metric} {value:.2f} on the holdout')

    def evaluate_teacher(self) -> dict[str, Any] | None:
        """Report of the teacher on what is watched; None without one."""
        return self.teaching and self.teaching.evaluate(self.measured, self.val_loader, self.watched)

    def _share_batch_norm(self) -> None:
        """Give all processes the same batch-norm statistics, as timm's --dist-bn."""
        if self.accelerator.num_processes > 1 and not isinstance(self.task, SecondStageTask):  # which leaves them
            for ema in (False, True) if self.task.has_ema() else (False,):
                distribute_bn(
                    self.task.get_trainable_module(ema=ema), self.accelerator.num_processes,
                    self.args.dist_bn == 'reduce')

    def _check_weights(self, epoch: int) -> None:
        """Stop before a checkpoint is written of weights that the epoch's last step ruined."""
        if self.watch.sums.get(_RUINED):
            raise self.watch.not_finite('the weights are NaN or infinite after', epoch + 1, len(self.train_loader))

    def _note_best(self, report: dict[str, Any], epoch: int) -> None:
        metric, network, name = self.args.eval_metric, None, self.data.splits.val_name
        chosen_on = 'a split named holdout' if name == 'holdout' else name
        if self.data.splits.holdout is not None:
            chosen_on, network = 'holdout', eval_network(self.task)
        self.record.note_best(epoch, metric, report[metric], chosen_on, network)


def _drop_float64(task: nn.Module) -> None:
    """Make buffers float32 that are float64, which mps lacks."""
    for module in task.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.dtype == torch.float64:
                setattr(module, name, buffer.float())


def _reset_loss_scale(accelerator: Accelerator) -> None:
    """Start fp16's loss scale anew: the training of a teacher before this run may have changed it."""
    if accelerator.scaler is not None:
        fresh = {'scale': 65536., '_growth_tracker': 0}
        accelerator.scaler.load_state_dict(accelerator.scaler.state_dict() | fresh)
