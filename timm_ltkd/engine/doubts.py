"""What about a recipe looks like a mistake: told before anything is trained, and trained all the same."""
import logging
import math
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from timm.layers import PatchEmbed
from torch import nn

from ..distill import DistillMethod
from ..distill.classifier import classifiers
from ..errors import UserError
from ..options import listed, trained_network

# all of these are our choice
_FROM_SCRATCH = 0.05  # the learning rate of SGD that is too high for weights that are there
_OF_SGD = ('sgd', 'momentum', 'nesterov', 'lars', 'larc', 'adadelta')  # all others divide by the gradient's size
_TOO_HIGH = 0.005  # the learning rate of these others, and of those that bear more
_BEARING, _TOO_HIGH_FOR_THEM = ('lamb', 'muon', 'rmsprop', 'adafactor', 'novograd', 'adagrad', 'madgrad'), 0.1
_BEGINNING = 0.05  # of a moving average
_SMALL = 64  # pixels
_logger = logging.getLogger(__name__)


@contextmanager
def told_once(first: bool) -> Iterator[None]:
    """Inside, nothing is told but errors, unless it is the first of several runs that are all told the same."""
    logger = logging.getLogger('timm_ltkd')
    level = logger.level
    try:
        if not first:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)


def warn_of_recipe(args: Namespace, network: nn.Module, epochs: int, batches: int) -> None:
    """Warn of small images that nobody asked for, of pixels in no patch of a network, of a learning rate, a schedule, a
    warm-up, an accumulation or a moving average that does not go with the rest, and of a schedule that looks at the
    images the figures are of.

    Args:
        network: That knows how its images come.
        epochs: Of the run, those at the end that its schedule adds included.
        batches: Of an epoch.
    """
    side = network.pretrained_cfg['input_size'][-1]
    if args.img_size is None and side <= _SMALL:
        name = trained_network(args)
        _logger.warning(
            f'{name} is made for images of {side} pixels, and nothing says that these are so small: name another '
            f'network, or say --img-size {side}')
    embed = getattr(network, 'patch_embed', None)
    patch = embed.patch_size[-1] if isinstance(embed, PatchEmbed) and not embed.dynamic_img_pad else 1
    if unseen := side % patch:
        _logger.warning(
            f'patches of {patch} pixels leave out the last {unseen} of {side}, at the right and at the bottom: give '
            f'--img-size {side - unseen} or {side - unseen + patch}')
    if args.warmup_epochs >= epochs:
        rising = f'all {epochs} epochs' if epochs > 1 else 'the only epoch'
        _logger.warning(f'the learning rate is still rising after {rising}: lower --warmup-epochs')
    in_steps = {  # the epoch, from 1, in which timm's schedule falls first
        'multistep': ('--decay-milestones', args.decay_milestones[0]),
        'step': ('--decay-epochs', args.decay_epochs + 1)}
    if args.sched in in_steps:
        option, first = in_steps[args.sched]
        first += args.warmup_epochs * args.warmup_prefix
        if first > epochs:
            _logger.warning(
                f'the learning rate never falls: --sched {args.sched} lowers it in epoch {first:g}, and the run ends '
                f'after {epochs}; give {option}')
    if args.grad_accum_steps > batches:
        _logger.warning(
            f'--grad-accum-steps {args.grad_accum_steps}: an epoch has {batches} batches, and is one update')
    if args.sched == 'plateau' and not args.holdout:
        _logger.warning(
            '--sched plateau lowers the learning rate by the figures of the validation split, which are then no fair '
            'estimate: give a --holdout, and it goes by that')
    _warn_of_rate(args)
    updates = epochs * -(-batches // args.grad_accum_steps)
    if args.model_ema and not args.model_ema_warmup and args.model_ema_decay ** updates > _BEGINNING:
        _logger.warning(
            f'after all {updates} updates {100 * args.model_ema_decay ** updates:.0f} % of the moving average, which '
            'is exported, are still the weights of the beginning: give --model-ema-warmup, or a --model-ema-decay of '
            f'{math.floor(1e5 * _BEGINNING ** (1 / updates)) / 1e5:g} or less')


def takes_rates_of_sgd(opt: str) -> bool:
    """Whether an optimizer, by its name, is of SGD's kind, and does not divide by the size of the gradient."""
    return any(name in opt.lower() for name in _OF_SGD)


def _warn_of_rate(args: Namespace) -> None:
    opt, there = args.opt.lower(), args.pretrained or args.initial_checkpoint
    most = _TOO_HIGH_FOR_THEM if any(name in opt for name in _BEARING) else _TOO_HIGH
    if not takes_rates_of_sgd(opt) and args.lr >= most:
        _logger.warning(
            f'--lr {args.lr:g} is one for SGD, and --opt {args.opt} divides by the size of the gradient: a hundredth '
            'is usual (of a teacher that is trained first: in its --teacher-config)')
    elif opt in ('sgd', 'momentum') and there and args.lr >= _FROM_SCRATCH and not getattr(args, 'stage', None):
        _logger.warning(  # a stage leaves what is there as it is
            f'--lr {args.lr:g} is one for training from scratch, and these weights are trained already, which it may '
            'ruin: a tenth or less is usual (of a teacher that is trained first: in its --teacher-config)')


def warn_of_zero_classifier(args: Namespace, network: nn.Module, method: DistillMethod) -> None:
    """Warn of a student that starts with equal logits, under a method whose first gradients are then huge.

    Args:
        network: The student, as it starts.
        method: What it learns by.
    """
    if not method.by_spread or args.clip_grad:
        return
    with suppress(UserError):  # no classifier is found
        weights = [weight for head in classifiers(network) for part in head for weight in part.parameters()]
        if weights and not any(weight.any() for weight in weights):
            _logger.warning(
                f'the classifier of {args.student} starts with zeros, so that its logits are equal, where '
                f'--kd {" ".join(listed(args.kd))} in units of their spread has gradients that throw weights far off: '
                'give --clip-grad 1')


def warn_of_deferral(module: nn.Module, option: str, epochs: int) -> None:
    """Warn of class weights that are to come in after the last epoch, and of a loss that is to be whole only then.

    Args:
        module: A loss, or a method.
        option: What its options are given by.
        epochs: Of the run.
    """
    for part in module.modules():
        deferred = getattr(part, 'deferred_epochs', 0)
        if deferred >= epochs:
            _logger.warning(
                f'{option} deferred_epochs={deferred:g}: the run ends after {epochs} epochs, so class weights never '
                'come in; lower it')
        rising = getattr(part, 'warmup_epochs', 0)
        if rising > epochs:
            _logger.warning(
                f'{option} warmup_epochs={rising:g}: the run ends after {epochs} epochs, before the loss has its whole '
                'weight; lower it')
