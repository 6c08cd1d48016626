"""A whole training run: from a network and data to a folder with weights and a report."""
import logging
import warnings
from argparse import Namespace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.task import ClassificationTask, TrainingTask
from timm.utils import distribute_bn, unwrap_model
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..data import class_shares, stop_workers
from ..distill import DistillMethod, DistillTask, Teacher, TeacherEnsemble
from ..errors import UserError, last_line
from ..report import write_summary
from .build import create_criterion, create_full_loader, create_loaders, create_mixing, create_optimizer
from .checkpoint import load_checkpoint, save_checkpoint, set_rng_state
from .class_means import teacher_class_means
from .evaluate import evaluate
from .export import finish
from .folder import RunFolder
from .launch import finish_trackers, on_main, start_trackers
from .loop import eval_network, train_epoch
from .recipe import Data, global_batch
from .stages import SecondStageTask

_logger = logging.getLogger(__name__)
_TIMM_FIGURES = ('loss', 'top1', 'top5')
_OUR_FIGURES = ('balanced', 'many', 'medium', 'few', 'worst')


class Result(NamedTuple):
    """Reports of a finished run: of what was trained, and of its teacher."""
    student: dict[str, Any]
    teacher: dict[str, Any] | None


class Training:
    """The state of a run between epochs, and how it is saved and restored.

    Args:
        args: Options of the run.
        accelerator: Device, precision, processes.
        data: What to train on.
        network: What to train.
        teacher: With `method`: what to learn from.
        method: How.
        resumed: A state to `restore` follows, so that what it holds is not computed.
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
    ):
        set_seed(args.seed, device_specific=True)
        self.args, self.accelerator, self.data = args, accelerator, data
        accelerator.gradient_accumulation_steps = args.grad_accum_steps
        if accelerator.scaler is not None:  # a teacher's training before this one has changed it
            fresh = {'scale': 65536., '_growth_tracker': 0}
            accelerator.scaler.load_state_dict(accelerator.scaler.state_dict() | fresh)
        self.input_config = {key: network.pretrained_cfg[key] for key in (
            'input_size', 'mean', 'std', 'interpolation', 'crop_pct')}
        self.train_loader, self.val_loader = create_loaders(args, accelerator, data, self.input_config)
        self.watched = 'this data' if data.splits.holdout is None else 'the holdout'  # what the log calls it
        self.mixing = create_mixing(args, accelerator, data, self.input_config)
        criterion = create_criterion(args, data)
        self.stage = getattr(args, 'stage', None)  # no option of distill.py
        plain_task = SecondStageTask if self.stage else ClassificationTask
        task = plain_task(network, criterion, verbose=False) if teacher is None else \
            DistillTask(network, teacher, method, criterion)
        device = accelerator.device
        task.to(device=device, dtype=torch.float32 if device.type == 'mps' else None)  # mps has no float64
        if args.channels_last:
            nn.Module.to(task, memory_format=torch.channels_last)  # timm's own `to` did not take it before 1.0.31
        if method is not None and method.needs_class_means and not resumed:
            method.set_class_means(self._class_means(task.teacher))
        if args.model_ema:  # from the raw network, before compile and DDP
            task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
        if args.torchcompile:
            compile_in_place(task, args.torchcompile, args.torchcompile_mode)
        optimizer = create_optimizer(args, task.get_trainable_module())
        self.scheduler, self.epochs = create_scheduler_v2(
            optimizer, **scheduler_kwargs(args),
            updates_per_epoch=-(-len(self.train_loader) // args.grad_accum_steps))
        with warnings.catch_warnings():  # newer torch has another name for the option that Accelerate passes to DDP
            warnings.filterwarnings('ignore', '.*broadcast_buffers', FutureWarning)
            task.trainable_module, self.optimizer = accelerator.prepare(task.get_trainable_module(), optimizer)
        # the loop and not the module autocasts: evaluation is in float32
        accelerator.unwrap_model(task.trainable_module, keep_fp32_wrapper=False)
        self.task: TrainingTask = task
        self.epoch = self.updates = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, torch.Tensor] | None = None  # kept where a holdout chooses
        self.method_report: dict[str, Any] = {}

    def _class_means(self, teacher: Teacher) -> torch.Tensor:
        """Mean features of a teacher over the training images, as they are evaluated."""
        loader = self._loader_of(self.data.splits.train)
        try:
            return teacher_class_means(
                teacher, loader, self.accelerator, self.data.prior.num_classes, self.args.channels_last)
        finally:
            stop_workers(loader)

    def _loader_of(self, dataset: Dataset) -> DataLoader:
        return create_full_loader(dataset, self.args, self.accelerator, self.input_config)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, but the random generators."""
        scaler, task = self.accelerator.scaler, self.task
        kept = {} if self.best_weights is None else {'best_weights': self.best_weights}
        return kept | {
            'model': unwrap_model(task.trainable_module).state_dict(),
            'ema': task.get_trainable_module(ema=True).module.state_dict() if task.has_ema() else None,
            'optimizer': self.optimizer.state_dict(),
            'scheduler': self.scheduler.state_dict() if self.scheduler is not None else None,
            'plateau': self._plateau().state_dict() if self._plateau() is not None else None,
            'scaler': scaler.state_dict() if scaler is not None else None,
            'updates': self.updates,
            'history': self.history,
            'best': self.best,
            'method_report': self.method_report,
        }

    def restore(self, state: dict[str, Any], folder: RunFolder) -> None:
        """Continue from a state that `load_checkpoint` gave."""
        try:
            unwrap_model(self.task.trainable_module).load_state_dict(state['model'])
            if self.task.has_ema():
                self.task.get_trainable_module(ema=True).module.load_state_dict(state['ema'])
            self.optimizer.load_state_dict(state['optimizer'])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state['scheduler'])
            if self._plateau() is not None:
                self._plateau().load_state_dict(state['plateau'])
            if self.accelerator.scaler is not None and state['scaler'] is not None:
                self.accelerator.scaler.load_state_dict(state['scaler'])
        except (RuntimeError, KeyError, ValueError, AttributeError, TypeError) as e:
            raise UserError(
                f'the checkpoint in {folder.last} is of another architecture or recipe ({last_line(e)[:120]})') from e
        self.epoch, self.updates = state['epoch'], state['updates']
        self.history, self.best = state['history'], state['best']
        self.best_weights = state.get('best_weights')
        self.method_report = state.get('method_report', {})
        rank = self.accelerator.process_index
        if len(state['rng']) == self.accelerator.num_processes:
            set_rng_state(state['rng'][rank])
        else:
            _logger.warning(
                f'the checkpoint was written by {len(state["rng"])} processes and {self.accelerator.num_processes} '
                'resume it: the run goes on, but not to the same last bit')

    def _plateau(self) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
        """torch's schedule inside timm's plateau, whose own state leaves out the epochs that were no better."""
        return getattr(self.scheduler, 'lr_scheduler', None)

    def run_epoch(self) -> None:
        """Train one epoch, evaluate if it is due, and step the schedule."""
        args, epoch = self.args, self.epoch
        self.train_loader.batch_sampler.set_epoch(epoch)
        task = self.task if isinstance(self.task, DistillTask) else self.task.criterion
        task.set_epoch(epoch)
        lr = max(group['lr'] for group in self.optimizer.param_groups)
        means, self.updates = train_epoch(
            self.task, self.train_loader, self.optimizer, self.accelerator, args, epoch, self.epochs, self.updates,
            self.scheduler, self.mixing)
        seconds = means.pop('seconds')
        self._share_batch_norm()
        self._check_weights(epoch)
        row = {'epoch': epoch, 'train_loss': means.pop('loss')}
        report = None
        if (epoch + 1) % args.val_interval == 0 or epoch + 1 == self.epochs:
            report = self._evaluate_after(epoch)
            row |= {f'eval_{key}': report[key] for key in _TIMM_FIGURES if key in report}
        row['lr'] = lr
        row |= {f'train_{key}': value for key, value in means.items()}
        if report is not None:
            row |= {f'eval_{key}': report[key] for key in _OUR_FIGURES if key in report}
            self._note_best(report, epoch)
        row |= self._method_figures()
        self.history.append(row)
        self.epoch = epoch + 1
        if self.scheduler is not None:
            self.scheduler.step(self.epoch, None if report is None else report.get(args.eval_metric))
        images = len(self.train_loader) * args.batch_size * self.accelerator.num_processes
        _logger.info(_epoch_line(row, self.epochs, seconds, images / seconds))

    def _method_figures(self) -> dict[str, float]:
        """What the method has counted in this epoch over all processes, as columns of the summary."""
        if not isinstance(self.task, DistillTask):
            return {}
        method = self.task.method
        sums = {name: self.accelerator.reduce(value, 'sum') for name, value in method.statistics().items()}
        method.reset_statistics()
        self.method_report = method.describe_statistics(sums)
        return {
            f'{name}_{group}': value
            for name, figures in self.method_report.items() if isinstance(figures, dict)
            for group, value in figures.items()}

    def evaluate(self) -> dict[str, Any]:
        """Report of the network as it is now (its moving average where there is one)."""
        return evaluate(
            eval_network(self.task), self.val_loader, self.accelerator, self.data.prior, self.args.channels_last)

    def _evaluate_after(self, epoch: int) -> dict[str, Any]:
        """`evaluate`, where an error says when: the epoch's last step may have ruined the weights."""
        try:
            return self.evaluate()
        except UserError as e:
            raise UserError(f'after epoch {epoch + 1}, step {len(self.train_loader)}: {last_line(e)}') from e

    def watch_test(self) -> None:
        """From now on evaluate on the split that was left alone while the holdout was watched."""
        stop_workers(self.val_loader)
        self.val_loader, self.watched = self._loader_of(self.data.splits.val), 'this data'

    def take_best(self) -> None:
        """Make the weights that the holdout chose those that are evaluated and exported."""
        eval_network(self.task).load_state_dict(self.best_weights)
        metric, value, epoch = (self.best[key] for key in ('metric', 'value', 'epoch'))
        _logger.info(f'the weights of epoch {epoch + 1} are taken: {metric} {value:.2f} on the holdout')

    def evaluate_teacher(self) -> dict[str, Any]:
        """Report of the teacher on the pixels that the student sees; of several together, and the log tells of each."""
        teacher = self.task.teacher
        if not isinstance(teacher, TeacherEnsemble):
            return self._evaluate_teacher(teacher, 'teacher')
        for name, member in zip(self.args.teacher, teacher.teachers, strict=True):
            self._evaluate_teacher(member, f'teacher {name}')
        return self._evaluate_teacher(teacher, 'all teachers together')

    def _evaluate_teacher(self, teacher: Teacher | TeacherEnsemble, name: str) -> dict[str, Any]:
        report = evaluate(
            TeacherLogits(teacher), self.val_loader, self.accelerator, self.data.prior, self.args.channels_last)
        figures = ', '.join(f'{key} {report[key]:.2f}' for key in ('top1', *_OUR_FIGURES) if key in report)
        _logger.info(f'{name} on {self.watched}: {figures}')
        return report

    def _share_batch_norm(self) -> None:
        """Give all processes the same batch-norm statistics, as timm's --dist-bn."""
        if self.accelerator.num_processes > 1 and not self.stage:  # a second stage leaves them as they are
            for ema in (False, True) if self.task.has_ema() else (False,):
                distribute_bn(
                    self.task.get_trainable_module(ema=ema), self.accelerator.num_processes,
                    self.args.dist_bn == 'reduce')

    def _check_weights(self, epoch: int) -> None:
        """Stop before a checkpoint is written of weights that the epoch's last step ruined."""
        weights = unwrap_model(self.task.trainable_module).state_dict().values()
        if not torch.stack([value.isfinite().all() for value in weights]).all():
            raise UserError(
                f'the weights are NaN or infinite after epoch {epoch + 1}, step {len(self.train_loader)}; the last '
                'checkpoint stands. Lower --lr, raise --warmup-epochs, or set --clip-grad')

    def _note_best(self, report: dict[str, Any], epoch: int) -> None:
        metric, holdout = self.args.eval_metric, self.data.splits.holdout
        if self.best is None or self.best['metric'] != metric or report[metric] > self.best['value']:
            chosen_on = self.args.val_split if holdout is None else 'holdout'
            self.best = {'metric': metric, 'value': report[metric], 'epoch': epoch, 'chosen_on': chosen_on}
            if holdout is not None:
                weights = eval_network(self.task).state_dict()
                self.best_weights = {key: value.detach().to('cpu', copy=True) for key, value in weights.items()}


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
    _log_plan(training)
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
        _logger.warning(f'--kd {args.kd}: in the last epoch {" and ".join(inert)} changed next to nothing')
    if accelerator.is_main_process:
        write_summary(folder.summary, training.history)
        finish(folder, args, accelerator, data, eval_network(training.task), report, teacher_report,
               training.history, training.best, training.method_report, holdout_reports)
        folder.sweep()
    finish_trackers(accelerator)
    accelerator.wait_for_everyone()
    return Result(report, teacher_report)


class TeacherLogits(nn.Module):
    """A teacher as a network that returns logits."""

    def __init__(self, teacher: Teacher | TeacherEnsemble):
        super().__init__()
        self.teacher = teacher

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.teacher(input).logits


def compile_in_place(task: TrainingTask, backend: str, mode: str | None) -> None:
    """torch.compile for what does the work; in place, so that no wrapper gets into checkpoints."""
    if isinstance(task, DistillTask):
        task.compile(backend=backend, mode=mode)
    else:
        task.get_eval_model().compile(backend=backend, mode=mode)
    if task.has_ema():
        unwrap_model(task.get_eval_model(ema=True)).compile(backend=backend, mode=mode)


def _log_plan(training: Training) -> None:
    args, accelerator, loader = training.args, training.accelerator, training.train_loader
    parameters = sum(p.numel() for p in eval_network(training.task).parameters())
    _logger.info(
        f'{parameters / 1e6:.2f} M parameters; {training.epochs} epochs of {len(loader)} batches; global batch '
        f'{global_batch(args, accelerator)} = {accelerator.num_processes} processes × {args.batch_size}'
        f'{f" × {args.grad_accum_steps} accumulated" if args.grad_accum_steps > 1 else ""}; learning rate {args.lr:g}; '
        f'{accelerator.device.type}, precision {accelerator.mixed_precision}')
    if args.warmup_epochs >= training.epochs > 1:
        _logger.warning(f'the learning rate is still rising after all {training.epochs} epochs: lower --warmup-epochs')
    if args.class_sampling != 'instance':
        _log_class_sampling(args, training.data)
    elif loader.batch_sampler.repeats:
        _logger.info(f'{loader.batch_sampler.repeats} images are seen twice an epoch, to fill the last batch')
    if accelerator.device.type == 'cpu' and torch.get_num_threads() == 1:
        _logger.info('one CPU thread a process; accelerate launch --num_cpu_threads_per_process N gives it more')


def _log_class_sampling(args: Namespace, data: Data) -> None:
    """How often the largest and the smallest class are shown, beside the images that they have."""
    prior, sampling = data.prior, args.class_sampling
    shown = class_shares(prior.counts, sampling, epoch=args.epochs - 1, epochs=args.epochs) * prior.num_samples
    largest, smallest = (
        f'{shown[c]:.1f} of the class of {prior.counts[c]:.0f}'
        for c in (prior.counts.argmax(), prior.counts.argmin()))
    epoch = 'the last' if sampling == 'progressive' else 'an'
    _logger.info(f'class sampling {sampling}: {epoch} epoch shows {largest} images and {smallest}')


def _epoch_line(row: dict[str, Any], epochs: int, seconds: float, rate: float) -> str:
    figures = [f'loss {row["train_loss"]:.4f}']
    figures += [f'{key} {row[f"eval_{key}"]:.2f}' for key in ('top1', *_OUR_FIGURES) if f'eval_{key}' in row]
    figures += [f'lr {row["lr"]:.3g}', f'{rate:.0f} img/s', f'{seconds:.1f} s']
    return f'epoch {row["epoch"] + 1}/{epochs}: {", ".join(figures)}'
