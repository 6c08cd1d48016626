"""What the log says of a run before its first epoch."""
import logging
import math
from argparse import Namespace

import torch

from ..data import class_shares, epoch_plan
from ..distill import DistillMethod
from .epoch.loop import eval_network
from .loaders import describe_loading
from .recipe import Data, global_batch
from .training import Training

_FROM_SCRATCH = 0.05  # the learning rate of SGD from which on a warning comes; our choice
_BEGINNING = 0.05  # of a moving average; our choice
_logger = logging.getLogger(__name__)


def log_plan(training: Training) -> None:
    """Tell how long, how large and how fast a run is going to be, and what about it looks like a mistake."""
    args, accelerator, loader = training.args, training.accelerator, training.train_loader
    parameters = sum(p.numel() for p in eval_network(training.task).parameters())
    name, (_, height, width) = args.model if 'model' in args else args.student, training.input_config['input_size']
    _logger.info(
        f'{name}, {parameters / 1e6:.2f} M parameters, images of {width}×{height}; '
        f'{training.epochs} epoch{"s" if training.epochs > 1 else ""} of {len(loader)} batches; global batch '
        f'{global_batch(args, accelerator)} = {accelerator.num_processes} processes × {args.batch_size}'
        f'{f" × {args.grad_accum_steps} accumulated" if args.grad_accum_steps > 1 else ""}; learning rate {args.lr:g}; '
        f'{accelerator.device.type}, precision {accelerator.mixed_precision}')
    if args.warmup_epochs >= training.epochs:
        epochs = f'all {training.epochs} epochs' if training.epochs > 1 else 'the only epoch'
        _logger.warning(f'the learning rate is still rising after {epochs}: lower --warmup-epochs')
    _warn_of_deferral(training)
    _warn_of_average(training)
    tunes = args.pretrained and not getattr(args, 'stage', None)  # a stage leaves what is pretrained as it is
    if tunes and args.opt.lower() in ('sgd', 'momentum') and args.lr >= _FROM_SCRATCH:
        _logger.warning(
            f'--lr {args.lr:g} is one for training from scratch, and the weights are pretrained, which it may ruin: a '
            'tenth or less is usual (of a teacher that is trained first: in its --teacher-config)')
    _logger.info(describe_loading(
        args, accelerator, training.data, training.input_config, (loader, training.val_loader)))
    if args.class_sampling != 'instance':
        _log_class_sampling(args, training.data)
    elif repeats := epoch_plan(loader).repeats:
        _logger.info(f'{repeats} images are seen twice an epoch, to fill the last batch')
    if accelerator.device.type == 'cpu' and torch.get_num_threads() == 1:
        _logger.info('one CPU thread a process; accelerate launch --num_cpu_threads_per_process N gives it more')


def _warn_of_deferral(training: Training) -> None:
    """Say so if class weights are to come in after the last epoch."""
    for module in training.task.modules():
        deferred = getattr(module, 'deferred_epochs', 0)
        if deferred >= training.epochs:
            option = '--kd-kwargs' if isinstance(module, DistillMethod) else '--loss-kwargs'
            _logger.warning(
                f'{option} deferred_epochs={deferred:g}: the run ends after {training.epochs} epochs, so class weights '
                'never come in; lower it')


def _warn_of_average(training: Training) -> None:
    """Say so if much of the moving average is going to be the weights that the run begins with."""
    args = training.args
    updates = training.epochs * -(-len(training.train_loader) // args.grad_accum_steps)
    if args.model_ema and not args.model_ema_warmup and args.model_ema_decay ** updates > _BEGINNING:
        _logger.warning(
            f'after all {updates} updates {100 * args.model_ema_decay ** updates:.0f} % of the moving average, which '
            'is exported, are still the weights of the beginning: give --model-ema-warmup, or a --model-ema-decay of '
            f'{math.floor(1e5 * _BEGINNING ** (1 / updates)) / 1e5:g} or less')


def _log_class_sampling(args: Namespace, data: Data) -> None:
    """How often the largest and the smallest class are shown, beside the images that they have."""
    prior, sampling = data.prior, args.class_sampling
    shown = class_shares(prior.counts, sampling, epoch=args.epochs - 1, epochs=args.epochs) * prior.num_samples
    largest, smallest = (
        f'{shown[c]:.1f} of the class of {prior.counts[c]:.0f}'
        for c in (prior.counts.argmax(), prior.counts.argmin()))
    epoch = 'the last' if sampling == 'progressive' else 'an'
    _logger.info(f'class sampling {sampling}: {epoch} epoch shows {largest} images and {smallest}')
