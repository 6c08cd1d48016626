"""A whole training run: from a network and data to a folder with weights and a report."""
import inspect
import logging
from argparse import Namespace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.task import ClassificationTask, TrainingTask
from timm.utils import distribute_bn, unwrap_model
from torch import nn

from ..data import create_eval_loader, create_eval_transform, create_train_loader, create_train_transform
from ..distill import DistillMethod, DistillTask, Teacher, create_loss
from ..errors import UserError, last_line, nearest, unknown_keyword
from ..report import write_summary
from .checkpoint import load_checkpoint, save_checkpoint, set_rng_state
from .evaluate import evaluate
from .export import finish
from .folder import RunFolder
from .launch import finish_trackers, on_main, start_trackers
from .loop import eval_network, train_epoch
from .recipe import Data, global_batch

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
    """

    def __init__(
            self,
            args: Namespace,
            accelerator: Accelerator,
            data: Data,
            network: nn.Module,
            teacher: Teacher | None = None,
            method: DistillMethod | None = None,
    ):
        set_seed(args.seed, device_specific=True)
        self.args, self.accelerator, self.data = args, accelerator, data
        accelerator.gradient_accumulation_steps = args.grad_accum_steps
        if accelerator.scaler is not None:  # a teacher's training before this one has changed it
            accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), 'scale': 65536., '_growth_tracker': 0})
        self.input_config = {key: network.pretrained_cfg[key] for key in (
            'input_size', 'mean', 'std', 'interpolation', 'crop_pct')}
        self.train_loader, self.val_loader = create_loaders(args, accelerator, data, self.input_config)
        criterion = create_criterion(args, data)
        task = ClassificationTask(network, criterion, verbose=False) if teacher is None else \
            DistillTask(network, teacher, method, criterion)
        device = accelerator.device
        task.to(device=device, dtype=torch.float32 if device.type == 'mps' else None)  # mps has no float64
        if args.channels_last:
            task.to(memory_format=torch.channels_last)
        if args.model_ema:  # from the raw network, before compile and DDP
            task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
        if args.torchcompile:
            compile_in_place(task, args.torchcompile, args.torchcompile_mode)
        optimizer = create_optimizer(args, task.get_trainable_module())
        self.scheduler, self.epochs = create_scheduler_v2(
            optimizer, **scheduler_kwargs(args),
            updates_per_epoch=-(-len(self.train_loader) // args.grad_accum_steps))
        task.trainable_module, self.optimizer = accelerator.prepare(task.get_trainable_module(), optimizer)
        self.task: TrainingTask = task
        self.epoch = self.updates = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, but the random generators."""
        scaler, task = self.accelerator.scaler, self.task
        return {
            'model': unwrap_model(task.trainable_module).state_dict(),
            'ema': task.get_trainable_module(ema=True).module.state_dict() if task.has_ema() else None,
            'optimizer': self.optimizer.state_dict(),
            'scheduler': self.scheduler.state_dict() if self.scheduler is not None else None,
            'plateau': self._plateau().state_dict() if self._plateau() is not None else None,
            'scaler': scaler.state_dict() if scaler is not None else None,
            'updates': self.updates,
            'history': self.history,
            'best': self.best,
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
        for part in (self.task, getattr(self.task, 'criterion', None)):
            if hasattr(part, 'set_epoch'):
                part.set_epoch(epoch)
        lr = max(group['lr'] for group in self.optimizer.param_groups)
        means, self.updates = train_epoch(
            self.task, self.train_loader, self.optimizer, self.accelerator, args, epoch, self.epochs, self.updates,
            self.scheduler)
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
        self.history.append(row)
        self.epoch = epoch + 1
        if self.scheduler is not None:
            self.scheduler.step(self.epoch, None if report is None else report.get(args.eval_metric))
        images = len(self.train_loader) * args.batch_size * self.accelerator.num_processes
        _logger.info(_epoch_line(row, self.epochs, seconds, images / seconds))

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

    def evaluate_teacher(self) -> dict[str, Any]:
        """Report of the teacher on the pixels that the student sees."""
        report = evaluate(
            TeacherLogits(self.task.teacher), self.val_loader, self.accelerator, self.data.prior,
            self.args.channels_last)
        figures = ', '.join(f'{key} {report[key]:.2f}' for key in ('top1', *_OUR_FIGURES) if key in report)
        _logger.info(f'teacher on this data: {figures}')
        return report

    def _share_batch_norm(self) -> None:
        """Give all processes the same batch-norm statistics, as timm's --dist-bn."""
        if self.accelerator.num_processes > 1:
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
        metric = self.args.eval_metric
        if self.best is None or report[metric] > self.best['value']:
            self.best = {'metric': metric, 'value': report[metric], 'epoch': epoch, 'chosen_on': self.args.val_split}


def fit(
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        network: nn.Module,
        folder: RunFolder,
        config: str,
        *,
        teacher: Teacher | None = None,
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
    training = Training(args, accelerator, data, network, teacher, method)
    if state is not None:
        training.restore(state, folder)
        _logger.info(f'resuming {folder.path} after epoch {training.epoch} of {training.epochs}')
    on_main(accelerator, lambda: folder.claim(config))
    try:
        return _run(training, folder)
    except UserError:
        if accelerator.is_main_process:
            folder.abandon()
        raise


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
    report = training.evaluate()
    if accelerator.is_main_process:
        write_summary(folder.summary, training.history)
        finish(folder, args, accelerator, data, eval_network(training.task), report, teacher_report,
               training.history, training.best)
        folder.sweep()
    finish_trackers(accelerator)
    accelerator.wait_for_everyone()
    return Result(report, teacher_report)


class TeacherLogits(nn.Module):
    """A teacher as a network that returns logits."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.teacher = teacher

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.teacher(input).logits


def create_loaders(args: Namespace, accelerator: Accelerator, data: Data, input_config: dict[str, Any]):
    """Training and evaluation loaders of this process."""
    common = dict(
        rank=accelerator.process_index, world_size=accelerator.num_processes, workers=args.workers,
        pin_memory=args.pin_mem)
    size = tuple(input_config['input_size'][-2:])
    pixels = dict(input_size=size, mean=input_config['mean'], std=input_config['std'])
    train_transform = create_train_transform(
        **pixels, crop_mode=args.train_crop_mode, crop_padding=args.crop_padding, scale=args.scale, ratio=args.ratio,
        hflip=args.hflip, vflip=args.vflip, color_jitter=args.color_jitter, aa=args.aa, reprob=args.reprob,
        remode=args.remode, recount=args.recount, interpolation=args.train_interpolation, no_aug=args.no_aug)
    eval_transform = create_eval_transform(
        **pixels, crop_pct=input_config['crop_pct'], interpolation=input_config['interpolation'])
    return (
        create_train_loader(data.splits.train, train_transform, batch_size=args.batch_size, seed=args.seed, **common),
        create_eval_loader(
            data.splits.val, eval_transform, batch_size=args.validation_batch_size or args.batch_size, **common))


def create_criterion(args: Namespace, data: Data) -> nn.Module:
    """The hard-label loss that the options name."""
    return create_loss(args.loss, prior=data.prior, **{'smoothing': args.smoothing, **args.loss_kwargs})


def check_recipe(args: Namespace, accelerator: Accelerator, data: Data, network: nn.Module) -> None:
    """Make all that the options describe and throw it away: their mistakes are told before anything is trained.

    Raises:
        UserError: A name, option or value that is wrong, or that does not fit the data.
    """
    few = data.prior.shot_groups()['few'].numpy()
    if args.eval_metric == 'few' and not data.splits.val.class_counts[few].any():
        raise UserError('--eval-metric few: no class with test images has so few training images; choose balanced')
    create_criterion(args, data)
    create_loaders(args, accelerator, data, network.pretrained_cfg)
    optimizer = create_optimizer(args, network)
    create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=1)
    if args.torchcompile:
        check_backend(args.torchcompile)


def check_backend(name: str) -> None:
    """Raise a UserError for a backend that torch.compile doesn't know; the nearest is named."""
    known = torch.compiler.list_backends(exclude_tags=())
    if name not in known:
        raise UserError(f"--torchcompile: unknown backend '{name}'{nearest(name, known)}")


def create_optimizer(args: Namespace, module: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer for a module.

    Raises:
        UserError: An unknown optimizer or option (the nearest is named).
    """
    name = args.opt.lower()
    if name.removeprefix('lookahead_') not in list_optimizers():
        raise UserError(f"--opt: unknown optimizer '{args.opt}'{nearest(name, list_optimizers())}")
    if twice := optimizer_kwargs(args).keys() & args.opt_kwargs:
        raise UserError(f"--opt-kwargs {min(twice)}: it has an option of its own, use that (see --help)")
    try:
        return create_optimizer_v2(
            module, **optimizer_kwargs(args), filter_bias_and_bn=args.filter_bias_and_bn, **args.opt_kwargs)
    except Exception as e:  # whatever an optimizer raises for options that it cannot use
        if (keyword := unknown_keyword(e)) is not None:
            known = inspect.signature(get_optimizer_class(name.removeprefix('lookahead_'), bind_defaults=False)).parameters
            raise UserError(f"--opt '{args.opt}' has no option '{keyword}'{nearest(keyword, known)}") from e
        raise UserError(f"--opt '{args.opt}': {last_line(e)}") from e


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
    if loader.batch_sampler.repeats:
        _logger.info(f'{loader.batch_sampler.repeats} images are seen twice an epoch, to fill the last batch')
    if accelerator.device.type == 'cpu' and torch.get_num_threads() == 1:
        _logger.info('one CPU thread a process; accelerate launch --num_cpu_threads_per_process N gives it more')


def _epoch_line(row: dict[str, Any], epochs: int, seconds: float, rate: float) -> str:
    figures = [f'loss {row["train_loss"]:.4f}']
    figures += [f'{key} {row[f"eval_{key}"]:.2f}' for key in ('top1', *_OUR_FIGURES) if f'eval_{key}' in row]
    return f'epoch {row["epoch"] + 1}/{epochs}: {", ".join(figures)}, lr {row["lr"]:.3g}, {rate:.0f} img/s, {seconds:.1f} s'
