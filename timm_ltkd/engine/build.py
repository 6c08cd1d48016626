"""What the options describe, made: network, loss, task; and all of it checked before anything is trained."""
import logging
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.task import ClassificationTask, TrainingTask
from timm.utils import unwrap_model
from torch import nn

from ..data import SeededMixup, check_cutmix_minmax
from ..distill import DistillMethod, DistillTask, HardLabelLoss, Teacher, TeacherEnsemble, create_loss
from ..errors import UserError, last_line, nearest
from .combinations import check_cuda_graph, check_loss, mixing_options
from .doubts import warn_of_deferral, warn_of_recipe
from .epoch.bank import check_views
from .epoch.graph import check_graphable
from .epoch.optimizer import create_optimizer, run_epochs
from .loaders import choose_loader, create_loaders
from .networks.create import WEIGHTS_OF, check_takes_images, checkpoint_activations, create_network, of_ones_own
from .networks.export import why_not_loaded
from .networks.head import calm_new_head
from .networks.input import resolve_input, set_input
from .networks.trained import load_initial, warn_of_other_images
from .run_data import Data
from .stages import SecondStageTask, check_stage, prepare_stage

_logger = logging.getLogger(__name__)


def trainable_network(args: Namespace, name: str, data: Data, accelerator: Accelerator, option: str) -> nn.Module:
    """A network as the options describe it, seeded, that knows how its images come; the whole recipe is checked."""
    if stage := getattr(args, 'stage', None):
        check_stage(args)
    set_seed(args.seed)
    make = partial(
        create_network, name, data.prior.num_classes, option=option,
        pretrained=args.pretrained and not args.initial_checkpoint,  # whose weights take the place of all others
        img_size=args.img_size, small_image_stem=args.small_image_stem, model_kwargs=args.model_kwargs,
        drop_path_rate=args.drop_path, global_pool=args.gp)
    network = make(drop_rate=args.drop or None)  # not every network takes one
    if not args.drop and getattr(network, 'drop_rate', 0.) and 'drop_rate' not in args.model_kwargs:
        set_seed(args.seed)
        network = make(drop_rate=0.)  # a few of timm's have dropout unless told otherwise
    if args.initial_checkpoint:
        load_initial(args, network, data, WEIGHTS_OF[option])
    if args.new_head or args.pretrained and network.pretrained_cfg.get('num_classes') != data.prior.num_classes:
        calm_new_head(network, seed=args.seed)
    if args.grad_checkpointing:
        checkpoint_activations(network, f"{option} '{name}'")
    set_input(network, resolve_input(args, network.pretrained_cfg))
    if accelerator.is_main_process and of_ones_own(name) and (reason := why_not_loaded(network)) is not None:
        _logger.warning(
            f"{option} '{name}': the commands of this package load what is trained here, and "
            f"timm.create_model('local-dir:RUN', pretrained=True) does not ({reason}): build it by "
            'timm.models.build_model_with_cfg, see docs/models.md')
    if stage and args.initial_checkpoint:
        warn_of_other_images(args.initial_checkpoint, network, WEIGHTS_OF[option])
    check_takes_images(network, network.pretrained_cfg['input_size'], f"{option} '{name}'")
    create_criterion(args, data).prepare(network)
    if stage:
        prepare_stage(network, stage, seed=args.seed)
    choose_loader(args, accelerator, data, network.pretrained_cfg)
    _check_recipe(args, accelerator, data, network)
    return network


def _check_recipe(args: Namespace, accelerator: Accelerator, data: Data, network: nn.Module) -> None:
    """Make all that the options describe and throw it away: mistakes, and what looks like one, are told beforehand.

    Raises:
        UserError: A name, option or value that is wrong, or that does not fit the data.
    """
    check_cuda_graph(args, accelerator)
    few = data.prior.shot_groups()['few'].numpy()
    if args.eval_metric == 'few' and not data.splits.watched.class_counts[few].any():
        images = 'test' if data.splits.holdout is None else 'held-out'
        raise UserError(f'--eval-metric few: no class with {images} images has so few training images; choose balanced')
    if args.decay_milestones != sorted(args.decay_milestones):
        raise UserError(
            f'--decay-milestones {" ".join(map(str, args.decay_milestones))}: list the epochs in ascending order')
    criterion = create_criterion(args, data)
    check_loss(args, criterion)
    train_loader, _ = create_loaders(args, accelerator, data, network.pretrained_cfg)
    check_views(args, train_loader, data)
    create_mixing(args, accelerator, data, network.pretrained_cfg)
    optimizer = create_optimizer(args, network, accelerator.mixed_precision)
    epochs = run_epochs(args)
    if args.cuda_graph:
        check_graphable(optimizer, args.opt)
    if args.torchcompile_mode and not args.torchcompile:
        raise UserError('--torchcompile-mode is about --torchcompile; give that too, or leave it out')
    if args.torchcompile:
        check_compile(args.torchcompile, args.torchcompile_mode, args.grad_accum_steps, accelerator.device)
    warn_of_recipe(args, network, epochs, len(train_loader))
    warn_of_deferral(criterion, '--loss-kwargs', epochs)


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
    smoothing = {'smoothing': args.smoothing} if args.smoothing and not mixing_options(args) else {}
    loss = create_loss(args.loss, prior=data.prior, **{**smoothing, **args.loss_kwargs})
    if kept := [*loss.state_dict()]:
        raise UserError(
            f"--loss {args.loss} holds {', '.join(kept)}: a loss is neither trained nor saved; make it a method (--kd) "
            'or a buffer with persistent=False if it never changes')
    return loss


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


def check_compile(backend: str, mode: str | None, accumulated: int, device: torch.device) -> None:
    """Raise a UserError for a backend (the nearest is named) or a mode that torch.compile doesn't know, or a mode whose
    CUDA graphs would overwrite the gradients that several batches add to."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise UserError(f"--torchcompile: unknown backend '{backend}'{nearest(backend, known)}")
    try:
        torch.compile(nn.Identity(), backend=backend, mode=mode)
    except (RuntimeError, ValueError) as e:
        raise UserError(f"--torchcompile-mode '{mode}': {last_line(e)}") from e
    if accumulated > 1 and mode in ('reduce-overhead', 'max-autotune') and device.type == 'cuda':
        raise UserError(
            f"--torchcompile-mode '{mode}' makes CUDA graphs, which do not go with --grad-accum-steps; leave out the "
            'mode, or choose max-autotune-no-cudagraphs')


def compile_in_place(task: TrainingTask, backend: str, mode: str | None) -> None:
    """torch.compile for what does the work; in place, so that no wrapper gets into checkpoints."""
    if isinstance(task, DistillTask):
        task.compile(backend=backend, mode=mode)
    else:
        task.get_eval_model().compile(backend=backend, mode=mode)
    if task.has_ema():
        unwrap_model(task.get_eval_model(ema=True)).compile(backend=backend, mode=mode)
