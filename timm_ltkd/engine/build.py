"""What the options describe, made: loaders, loss, optimizer; and checked before anything is trained."""
import inspect
from argparse import Namespace
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.task import ClassificationTask, TrainingTask
from timm.utils import unwrap_model
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..data import (
    SeededMixup,
    TwoViews,
    check_cutmix_minmax,
    create_eval_loader,
    create_eval_transform,
    create_train_loader,
    create_train_transform,
)
from ..distill import DistillMethod, DistillTask, HardLabelLoss, Teacher, TeacherEnsemble, create_loss
from ..errors import UserError, last_line, nearest, unknown_keyword
from .combinations import check_loss, mixing_options
from .launch import loader_workers
from .recipe import Data
from .stages import SecondStageTask


def create_loaders(
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        input_config: dict[str, Any],
        teacher_config: dict[str, Any] | None = None,
):
    """Loaders of this process: of what is trained on, and of what is evaluated after an epoch.

    With a `teacher_config` (see `host_view`) batches of training hold `Views`.
    """
    common = dict(
        rank=accelerator.process_index, world_size=accelerator.num_processes,
        workers=loader_workers(args.workers),
        pin_memory=args.pin_mem)
    resident_on = accelerator.device if args.loader == 'resident' else None
    transform = _train_transform(args, input_config)
    if teacher_config is not None:
        transform = TwoViews(transform, _train_transform(args, teacher_config, drawn_for=input_config['input_size']))
    return (
        create_train_loader(
            data.splits.train, transform, batch_size=args.batch_size, seed=args.seed,
            class_sampling=args.class_sampling, epochs=args.epochs, resident_on=resident_on, **common),
        create_full_loader(data.splits.watched, args, accelerator, input_config, resident_on))


def host_view(args: Namespace, teacher: Teacher | None, input_config: dict[str, Any]) -> dict[str, Any] | None:
    """How a loader makes the teacher's images of the data's; None where the teacher makes them of the student's.

    Args:
        args: Options of the run.
        teacher: With `--teacher-resize host` a single one.
        input_config: How the student's images are made; the teacher's are normalised alike, and it converts them.
    """
    if teacher is None or args.teacher_resize == 'device':
        return None
    cfg = teacher.networks[0].pretrained_cfg
    channels, *size = input_config['input_size']
    own = {key: cfg[key] for key in ('crop_pct', 'crop_mode', 'interpolation') if cfg.get(key) is not None}
    return {**input_config, **own, 'input_size': (channels, *(teacher.img_size or size))}


def _train_transform(args: Namespace, input_config: dict[str, Any], **options):
    return create_train_transform(
        input_size=input_config['input_size'], mean=input_config['mean'], std=input_config['std'],
        crop_mode=args.train_crop_mode, crop_padding=args.crop_padding, scale=args.scale, ratio=args.ratio,
        hflip=args.hflip, vflip=args.vflip, color_jitter=args.color_jitter, aa=args.aa, reprob=args.reprob,
        remode=args.remode, recount=args.recount, interpolation=args.train_interpolation, no_aug=args.no_aug,
        **options)


def create_full_loader(
        dataset: Dataset,
        args: Namespace,
        accelerator: Accelerator,
        input_config: dict[str, Any],
        resident_on: torch.device | None = None,
) -> DataLoader:
    """Images as they are evaluated, each once over all processes; of any split; kept in memory if they come often."""
    transform = create_eval_transform(
        input_size=input_config['input_size'], mean=input_config['mean'], std=input_config['std'],
        crop_pct=input_config['crop_pct'], crop_mode=input_config.get('crop_mode'),
        interpolation=input_config['interpolation'])
    return create_eval_loader(
        dataset, transform, batch_size=args.validation_batch_size or args.batch_size,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
        workers=loader_workers(args.workers),
        pin_memory=args.pin_mem, resident_on=resident_on)


def create_mixing(
        args: Namespace, accelerator: Accelerator, data: Data, input_config: dict[str, Any]) -> SeededMixup | None:
    """What mixes the images of a training batch, if the options ask for it.

    Raises:
        UserError: Batches of one image, or boxes that cannot be drawn.
    """
    mixing = mixing_options(args)
    if not mixing:
        return None
    if args.batch_size < 2:
        raise UserError(f'{mixing} mixes the images of a batch, and -b 1 has one; choose a larger -b')
    if args.cutmix_minmax is not None:
        check_cutmix_minmax(args.cutmix_minmax, input_config['input_size'])
    return SeededMixup(
        data.prior.num_classes, seed=args.seed, rank=accelerator.process_index, off_epoch=args.mixup_off_epoch,
        label_smoothing=args.smoothing, mixup_alpha=args.mixup, cutmix_alpha=args.cutmix,
        cutmix_minmax=args.cutmix_minmax, prob=args.mixup_prob, switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode)


def create_criterion(args: Namespace, data: Data) -> HardLabelLoss:
    """The hard-label loss that the options name; the labels of mixed images are smoothed where they are mixed."""
    refuse_given('--loss-kwargs', args.loss_kwargs)
    smoothing = 0. if mixing_options(args) else args.smoothing
    return create_loss(args.loss, prior=data.prior, **{'smoothing': smoothing, **args.loss_kwargs})


def create_task(
        args: Namespace,
        data: Data,
        network: nn.Module,
        teacher: Teacher | TeacherEnsemble | None = None,
        method: DistillMethod | None = None,
) -> TrainingTask:
    """Network and hard-label loss, for a distillation with teacher and method, as one task; where the network is."""
    criterion = create_criterion(args, data)
    if teacher is not None:
        return DistillTask(network, teacher, method, criterion)
    task = SecondStageTask if getattr(args, 'stage', None) else ClassificationTask  # no option of distill.py
    return task(network, criterion, verbose=False)


def refuse_given(option: str, kwargs: dict[str, Any]) -> None:
    """Raise a UserError for a keyword that a run gives to losses and methods itself."""
    for key in kwargs:
        if key.rpartition('.')[2] in ('name', 'prior', 'student_features', 'teacher_features'):
            raise UserError(f"{option}: '{key}' comes from the run; leave it out")


def check_recipe(args: Namespace, accelerator: Accelerator, data: Data, network: nn.Module) -> None:
    """Make all that the options describe and throw it away: their mistakes are told before anything is trained.

    Raises:
        UserError: A name, option or value that is wrong, or that does not fit the data.
    """
    few = data.prior.shot_groups()['few'].numpy()
    if args.eval_metric == 'few' and not data.splits.watched.class_counts[few].any():
        images = 'test' if data.splits.holdout is None else 'held-out'
        raise UserError(f'--eval-metric few: no class with {images} images has so few training images; choose balanced')
    if args.decay_milestones != sorted(args.decay_milestones):
        raise UserError(
            f'--decay-milestones {" ".join(map(str, args.decay_milestones))}: list the epochs in ascending order')
    check_loss(args, create_criterion(args, data))
    create_loaders(args, accelerator, data, network.pretrained_cfg)
    create_mixing(args, accelerator, data, network.pretrained_cfg)
    optimizer = create_optimizer(args, network)
    try:
        create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=1)
    except (AssertionError, ValueError) as e:
        raise UserError(f"--sched '{args.sched}': {last_line(e)}") from e
    if args.torchcompile:
        check_compile(args.torchcompile, args.torchcompile_mode)


def check_compile(backend: str, mode: str | None) -> None:
    """Raise a UserError for a backend (the nearest is named) or a mode that torch.compile doesn't know."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise UserError(f"--torchcompile: unknown backend '{backend}'{nearest(backend, known)}")
    try:
        torch.compile(nn.Identity(), backend=backend, mode=mode)
    except (RuntimeError, ValueError) as e:
        raise UserError(f"--torchcompile-mode '{mode}': {last_line(e)}") from e


def compile_in_place(task: TrainingTask, backend: str, mode: str | None) -> None:
    """torch.compile for what does the work; in place, so that no wrapper gets into checkpoints."""
    if isinstance(task, DistillTask):
        task.compile(backend=backend, mode=mode)
    else:
        task.get_eval_model().compile(backend=backend, mode=mode)
    if task.has_ema():
        unwrap_model(task.get_eval_model(ema=True)).compile(backend=backend, mode=mode)


def create_optimizer(args: Namespace, module: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer for a module.

    Raises:
        UserError: An unknown optimizer or option (the nearest is named).
    """
    name = args.opt.lower()
    if name.removeprefix('lookahead_') not in list_optimizers():
        raise UserError(f"--opt: unknown optimizer '{args.opt}'{nearest(name, list_optimizers())}")
    if args.opt_betas is not None and len(args.opt_betas) < 2:
        raise UserError('--opt-betas: give as many numbers as the optimizer has betas, two for most (0.9 0.999)')
    if twice := optimizer_kwargs(args).keys() & args.opt_kwargs:
        raise UserError(f"--opt-kwargs {min(twice)}: it has an option of its own, use that (see --help)")
    try:
        return create_optimizer_v2(
            module, **optimizer_kwargs(args), filter_bias_and_bn=args.filter_bias_and_bn, **args.opt_kwargs)
    except Exception as e:  # whatever an optimizer raises for options that it cannot use
        if (keyword := unknown_keyword(e)) is not None:
            made_of = get_optimizer_class(name.removeprefix('lookahead_'), bind_defaults=False)
            hint = nearest(keyword, inspect.signature(made_of).parameters)
            raise UserError(f"--opt '{args.opt}' has no option '{keyword}'{hint}") from e
        raise UserError(f"--opt '{args.opt}': {last_line(e)}") from e
