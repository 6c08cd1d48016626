"""What the log says of a run before its first epoch."""
import inspect
import logging
import os
from argparse import Namespace
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import unwrap_model

from ..data import class_shares, epoch_plan
from ..distill import loss_class, method_class, share_options
from ..distill.register import CONTEXT
from ..options import listed, teacher_names, trained_network
from ..report.text import words
from .loaders import describe_loading
from .recipe import global_batch
from .run_data import Data
from .training import Training

_logger = logging.getLogger(__name__)


def log_plan(training: Training) -> None:
    """Tell how long, how large and how fast a run is going to be."""
    args, accelerator, loader = training.args, training.accelerator, training.train_loader
    network = unwrap_model(training.task.get_eval_model())
    all_of_it = sum(p.numel() for p in network.parameters())
    learns = sum(p.numel() for p in network.parameters() if p.requires_grad)
    stays = '' if learns == all_of_it else f', {_many(learns)} of them trained, the others stay as they are'
    name, (_, height, width) = trained_network(args), training.input_config['input_size']
    _logger.info(
        f'{name}, {_many(all_of_it)} parameters{stays}, images of {width}×{height}; '
        f'{training.epochs} epoch{"s" if training.epochs > 1 else ""} of {len(loader)} batches; global batch '
        f'{global_batch(args, accelerator)} = {accelerator.num_processes} processes × {args.batch_size}'
        f'{f" × {args.grad_accum_steps} accumulated" if args.grad_accum_steps > 1 else ""}; learning rate {args.lr:g}; '
        f'{accelerator.device.type}, precision {accelerator.mixed_precision}')
    _logger.info(describe_loading(
        args, accelerator, training.data, training.input_config, (loader, training.val_loader)))
    _log_learning(args)
    if args.class_sampling != 'instance':
        _log_class_sampling(args, training.data)
    elif repeats := epoch_plan(loader).repeats:
        _logger.info(f'{repeats} images are seen twice an epoch, to fill the last batch')
    _log_machine(accelerator)


def _many(parameters: int) -> str:
    return f'{parameters / 1e6:.2f} M' if parameters >= 1e5 else f'{parameters:,}'


def _log_learning(args: Namespace) -> None:
    """Which loss and methods are learnt by, with all their options, those that nobody has named too."""
    smoothing = {'smoothing': args.smoothing} if args.smoothing else {}
    loss = _with_options(args.loss, loss_class(args.loss), smoothing | args.loss_kwargs)
    if 'kd' not in args:
        _logger.info(f'learns from the labels by {loss}')
        return
    names = listed(args.kd)
    methods = [
        _with_options(name, method_class(name), own)
        for name, own in zip(names, share_options(names, args.kd_kwargs), strict=True)]
    teachers = teacher_names(args)
    if len(teachers) > 1 and len(methods) > 1:
        taught = ', '.join(f'from {teacher} by {method}' for teacher, method in zip(teachers, methods, strict=True))
    else:
        taught = f'from the teacher{"s" if len(teachers) > 1 else ""} by {" and ".join(methods)}'
    _logger.info(f'learns {taught}, and from the labels by {loss}')


def _with_options(name: str, made_by: type, given: dict[str, Any]) -> str:
    options = {p.name: p.default for p in inspect.signature(made_by).parameters.values() if p.default is not p.empty}
    options = {key: value for key, value in options.items() if key not in (*CONTEXT, 'smoothing')} | given
    return f'{name} ({words(options)})' if options else name


def _log_machine(accelerator: Accelerator) -> None:
    """What of the machine is not made use of."""
    if accelerator.device.type == 'cpu' and torch.get_num_threads() == 1:
        more = (
            'accelerate launch --num_cpu_threads_per_process N gives it more'
            if 'ACCELERATE_MIXED_PRECISION' in os.environ else 'OMP_NUM_THREADS=N gives it more')  # accelerate's or not
        _logger.info(f'one CPU thread a process; {more}')
    if accelerator.device.type == 'cuda':
        there, used = torch.cuda.device_count(), int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        if there > used:
            _logger.info(
                f'{there} GPUs are there, {used} used; accelerate launch --multi_gpu --num_processes {there} takes all '
                '(CUDA_VISIBLE_DEVICES=N names one)')
        if accelerator.mixed_precision == 'no':
            _logger.info('float32; accelerate launch --mixed_precision bf16 is faster')


def _log_class_sampling(args: Namespace, data: Data) -> None:
    """How often the largest and the smallest class are shown, beside the images that they have."""
    prior, sampling = data.prior, args.class_sampling
    shown = class_shares(prior.counts, sampling, epoch=args.epochs - 1, epochs=args.epochs) * prior.num_samples
    largest, smallest = (
        f'{shown[c]:.1f} of the class of {prior.counts[c]:.0f}'
        for c in (prior.counts.argmax(), prior.counts.argmin()))
    epoch = 'the last' if sampling == 'progressive' else 'an'
    _logger.info(f'class sampling {sampling}: {epoch} epoch shows {largest} images and {smallest}')
