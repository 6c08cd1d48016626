"""Options that are right each for itself, and make no sense together."""
import logging
from argparse import Namespace

from ..distill import DistillMethod, HardLabelLoss
from ..errors import UserError
from .recipe import listed

_logger = logging.getLogger(__name__)


def mixing_options(args: Namespace) -> str:
    """Those of --mixup, --cutmix and --cutmix-minmax that are on; empty where images are not mixed."""
    on = {'--mixup': args.mixup > 0, '--cutmix': args.cutmix > 0, '--cutmix-minmax': args.cutmix_minmax is not None}
    return ' '.join(option for option, is_on in on.items() if is_on)


def check_loss(args: Namespace, criterion: HardLabelLoss) -> None:
    """Whether a hard-label loss goes with the other options; a warning where class frequencies are made up for twice.

    Raises:
        UserError: Images are mixed, and the loss takes class indices only.
    """
    _check_labels(args, f'--loss {args.loss}', criterion.accepts_soft_targets)
    _warn_of_two_corrections(args, f'--loss {args.loss}', criterion.corrects_prior)


def check_teachers(args: Namespace) -> None:
    """Whether several teachers are several networks.

    Raises:
        UserError: Not as many checkpoints as teachers, or the same network is to be trained twice.
    """
    names, sources = listed(args.teacher), listed(args.teacher_checkpoint)
    if sources and len(sources) != len(names):
        raise UserError(
            f'--teacher-checkpoint: {len(sources)} given for {len(names)} of --teacher; give one for each, in the same '
            'order')
    if not sources and (twice := [name for name in names if names.count(name) > 1]):
        raise UserError(
            f"--teacher names '{twice[0]}' twice, and both would be the same network; name another, or give each its "
            '--teacher-checkpoint')


def check_method(args: Namespace, method: DistillMethod) -> None:
    """The same as `check_loss` for a distillation method.

    Raises:
        UserError: Images are mixed, and the method takes class indices only; or it looks at features, which several
            teachers don't share.
    """
    if method.needs_features and len(listed(args.teacher)) > 1:
        raise UserError(
            f'--kd {args.kd} learns from features, and those of several teachers have nothing in common; give one '
            '--teacher, or a method that needs logits only')
    _check_labels(args, f'--kd {args.kd}', not method.needs_hard_labels)
    _warn_of_two_corrections(args, f'--kd {args.kd}', method.corrects_prior)


def _check_labels(args: Namespace, option: str, soft_labels: bool) -> None:
    mixing = mixing_options(args)
    if mixing and not soft_labels:
        raise UserError(
            f'{mixing} makes soft labels, and {option} needs to know the one class of an image; choose another, or '
            'leave the images unmixed')


def _warn_of_two_corrections(args: Namespace, option: str, corrects_prior: bool) -> None:
    if args.class_sampling != 'instance' and corrects_prior:
        _logger.warning(
            f'--class-sampling {args.class_sampling} and {option} both make up for the class frequencies: together '
            'they correct them twice, in favour of the tail')
