"""The loaders of a run: which kind it takes, and what they load."""
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from ..data import (
    ResidentEvalLoader,
    ResidentImages,
    ResidentTrainLoader,
    TwoViews,
    create_eval_loader,
    create_eval_transform,
    create_train_loader,
    create_train_transform,
    machine_memory,
)
from ..distill import Teacher
from ..errors import UserError
from .networks.input import INPUT
from .processes.launch import exchange, loader_workers, on_main, pins_memory
from .run_data import Data
from .shared import Shared

TrainLoader, EvalLoader = DataLoader | ResidentTrainLoader, DataLoader | ResidentEvalLoader
MEMORY_SHARE = 1 / 4  # of the machine's, for images that nobody asked to keep there: our choice


def choose_loader(args: Namespace, accelerator: Accelerator, data: Data, input_config: dict[str, Any]) -> None:
    """Make `--loader auto` one of the two kinds; in place, and the same whenever and in whichever process it is asked.

    Raises:
        UserError: An option for the other kind, or images that this machine could never keep.
    """
    if args.loader == 'auto':
        args.loader = automatic_loader(args, accelerator, data, input_config)
    elif args.loader == 'resident':  # told now, and not when they are decoded, which may be after a teacher's hours
        needed, memory = _resident_bytes(args, accelerator, data, input_config), machine_memory()
        if needed > memory:
            raise UserError(
                f'--loader resident: the images take {_size(needed)} as bytes, and this machine has {_size(memory)}; '
                'use --loader timm')
    if args.resident_size is not None and args.loader != 'resident':
        raise UserError('--resident-size is for images that stay in memory; add --loader resident')


def automatic_loader(args: Namespace, accelerator: Accelerator, data: Data, input_config: dict[str, Any]) -> str:
    """The kind that `--loader auto` is."""
    reason = on_main(accelerator, partial(why_not_resident, args, accelerator, data, input_config))
    return 'timm' if reason else 'resident'


def why_not_resident(
        args: Namespace, accelerator: Accelerator, data: Data, input_config: dict[str, Any]) -> str | None:
    """Why images don't stay in memory unless they are told to; None if they do."""
    if getattr(args, 'teacher_resize', None) == 'host':  # no option of train.py
        return '--teacher-resize host makes them in two sizes'
    if args.train_crop_mode != 'pad' and not args.no_aug:
        return (f'with --train-crop-mode {args.train_crop_mode} they stay in memory only if asked to '
                '(--loader resident --color-jitter 0, no --aa, and --resident-size N where sizes differ)')
    try:
        needed = _resident_bytes(args, accelerator, data, input_config)
    except UserError as e:
        return str(e).partition(';')[0]
    memory = machine_memory()
    if needed > memory * MEMORY_SHARE:
        return f'they take {_size(needed)}, more than a quarter of the {_size(memory)} of this machine'
    return None


def _resident_bytes(args: Namespace, accelerator: Accelerator, data: Data, input_config: dict[str, Any]) -> int:
    """What the images would take in memory; known without decoding more than one of each split."""
    kept = _resident_images(args, accelerator, data, _train_transform(args, input_config), input_config, Shared())
    return sum(images.layout.nbytes for images in kept)


def describe_loading(
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        input_config: dict[str, Any],
        loaders: tuple[TrainLoader, EvalLoader],
) -> str:
    """One line about which kind of loaders a run has, and why."""
    if args.loader == 'resident':
        train, watched = (loader.images for loader in loaders)
        height, width = train.layout[1:3]
        nbytes = train.layout.nbytes + watched.layout.nbytes
        return f'images stay in memory: {len(train)} + {len(watched)} of {height}x{width}, {_size(nbytes)}'
    reason = why_not_resident(args, accelerator, data, input_config) or 'as asked'
    return f'--loader timm, images are decoded whenever they are shown: {reason}'


def _size(nbytes: float) -> str:
    return f'{nbytes / 1e9:.1f} GB' if nbytes >= 1e9 else f'{nbytes / 1e6:.0f} MB'


def create_loaders(
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        input_config: dict[str, Any],
        teacher_config: dict[str, Any] | None = None,
        shared: Shared | None = None,
) -> tuple[TrainLoader, EvalLoader]:
    """Loaders of this process: of what is trained on, and of what is evaluated after an epoch.

    Args:
        teacher_config: See `host_view`; batches of training hold `Views`.
        shared: Several runs share images that stay in memory.
    """
    transform = _train_transform(args, input_config)
    if teacher_config is not None:
        transform = TwoViews(transform, _train_transform(args, teacher_config, drawn_for=input_config['input_size']))
    images = seen = None
    if args.loader == 'resident':
        images, seen = _resident_images(args, accelerator, data, transform, input_config, shared or Shared())
    train = create_train_loader(
        data.splits.train, transform, batch_size=args.batch_size, seed=args.seed, class_sampling=args.class_sampling,
        epochs=args.epochs, stored_views=getattr(args, 'bank_views', None), images=images,
        batches_per_update=args.grad_accum_steps, **_common(args, accelerator))
    return train, create_full_loader(data.splits.watched, args, accelerator, input_config, images=seen)


def _resident_images(
        args: Namespace, accelerator: Accelerator, data: Data, transform: Callable, input_config: dict[str, Any],
        shared: Shared) -> tuple[ResidentImages, ResidentImages]:
    """What is trained on and what is evaluated after an epoch, to stay in memory; not decoded yet."""
    keep = partial(
        ResidentImages, workers=loader_workers(args.workers), device=accelerator.device,
        progress=accelerator.is_main_process, exchange=exchange(accelerator))
    return (
        shared.once('training images', partial(keep, data.splits.train, transform, side=args.resident_size)),
        shared.once('watched images', partial(keep, data.splits.watched, eval_transform(input_config))))


def create_full_loader(
        dataset: Dataset,
        args: Namespace,
        accelerator: Accelerator,
        input_config: dict[str, Any],
        images: ResidentImages | None = None,
) -> EvalLoader:
    """Images as they are evaluated, each once over all processes; of any split.

    Args:
        dataset: All of it is evaluated.
        images: They, if they stay in memory since they come often.
    """
    return create_eval_loader(
        dataset, eval_transform(input_config), batch_size=args.validation_batch_size or args.batch_size,
        images=images, **_common(args, accelerator))


def host_view(args: Namespace, teacher: Teacher | None, input_config: dict[str, Any]) -> dict[str, Any] | None:
    """How a loader makes the teacher's images of the data's; None where the teacher makes them of the student's.

    Args:
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


def eval_transform(input_config: dict[str, Any]):
    """What makes an image's pixels for evaluation."""
    return create_eval_transform(**{key: input_config[key] for key in INPUT})


def _common(args: Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """What both loaders are told."""
    return dict(
        rank=accelerator.process_index, world_size=accelerator.num_processes, workers=loader_workers(args.workers),
        pin_memory=pins_memory(args, accelerator), device=accelerator.device)
