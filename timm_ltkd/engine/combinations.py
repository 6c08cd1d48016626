"""Options that are right each for itself, and make no sense together."""
import logging
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from accelerate import Accelerator

from ..data import is_stream_name
from ..distill import (
    DistillMethod,
    HardLabelLoss,
    SeveralMethods,
    check_method_count,
    create_loss,
    create_methods,
    loss_class,
    method_options,
    share_options,
)
from ..errors import OF_ONES_OWN, UserError, nearest, not_there
from ..models import ELSEWHERE
from ..options import listed
from ..prior import ClassPrior

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


def check_cuda_graph(args: Namespace, accelerator: Accelerator) -> None:
    """Whether --cuda-graph goes with the machine and the other options.

    Raises:
        UserError: No CUDA GPU, several processes, or what is not the same at each step.
    """
    if not args.cuda_graph:
        return
    if accelerator.device.type != 'cuda':
        raise UserError(f'--cuda-graph needs a CUDA GPU, and this runs on {accelerator.device.type}; leave it out')
    hindrances = {
        f'{accelerator.num_processes} processes': accelerator.num_processes > 1,
        'fp16 (use bf16)': accelerator.mixed_precision == 'fp16',
        '--grad-accum-steps': args.grad_accum_steps > 1,
        '--grad-checkpointing': args.grad_checkpointing,
        mixing_options(args): bool(mixing_options(args)),
        '--torchcompile': args.torchcompile is not None,
    }
    for option, on in hindrances.items():
        if on:
            raise UserError(f'--cuda-graph does not go with {option}; leave one of them out')


def check_teachers(args: Namespace) -> None:
    """Whether several teachers are several networks, and there are as many methods as can be taught.

    Raises:
        UserError: Not as many checkpoints as teachers, the same network is to be trained twice, or neither one method
            nor one for each teacher.
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
    check_method_count(listed(args.kd), len(names), '--kd')
    _check_tuning(args, sources)
    if args.teacher_resize == 'host':
        _check_host_resize(args)
    _check_bank(args)


def check_names(args: Namespace) -> None:
    """What can be told of loss, methods and teachers before any data are looked at.

    Raises:
        UserError: A name that nobody has registered, an option that a method has not; no such checkpoint.
    """
    names = listed(args.kd)
    try:
        loss_class(args.loss)
        for name in names:
            method_options(name)
    except UserError as e:
        raise UserError(f'{e}{OF_ONES_OWN}') from None
    for name, own in zip(names, share_options(names, args.kd_kwargs), strict=True):
        if unknown := own.keys() - {*method_options(name), 'standardize'}:  # of which the method says more
            raise UserError(
                f"method '{name}' has no option '{min(unknown)}'{nearest(min(unknown), method_options(name))}")
    for source in listed(args.teacher_checkpoint):
        if not source.startswith(ELSEWHERE) and not os.path.exists(source):
            raise UserError(f'--teacher-checkpoint: {not_there(source)}')


def _check_tuning(args: Namespace, sources: list[str]) -> None:
    """Whether the options that say how teachers come to the label space of the data go together."""
    maps, teachers, tune = listed(args.teacher_class_map), len(listed(args.teacher)), args.teacher_tune
    if maps and tune != 'none':
        raise UserError('--teacher-class-map is for a teacher with the head it has; add --teacher-tune none')
    if len(maps) not in (0, 1, teachers):
        raise UserError(f'--teacher-class-map: {len(maps)} given for {teachers} of --teacher; one for all, or one each')
    if args.teacher_pretrained is False and tune in ('head', 'none') and not sources:
        raise UserError(f'--teacher-tune {tune} needs weights; leave out --no-teacher-pretrained')
    if args.teacher_small_image_stem and tune in ('head', 'none') and not sources:
        raise UserError(
            f'--teacher-small-image-stem has a new first convolution, and --teacher-tune {tune} does not train it; use '
            '--teacher-tune all')


def _check_host_resize(args: Namespace) -> None:
    """Whether two views of different size can show the same."""
    hindrances = {
        'of several teachers': len(listed(args.teacher)) > 1,
        'with --reprob, which erases another part of it': args.reprob > 0,
        'with --train-crop-mode rkrr, which takes another part of it': args.train_crop_mode == 'rkrr',
        'with --loader resident, which keeps images of one size': args.loader == 'resident',
        'with --cutmix, which cuts another box of it': args.cutmix > 0 or args.cutmix_minmax is not None,
    }
    for reason, on in hindrances.items():
        if on:
            raise UserError(
                f'--teacher-resize host gives the student and one teacher the same view in two sizes; not {reason}')


def _check_bank(args: Namespace) -> None:
    """Whether what the teacher says can be kept, and the options about how go with it."""
    options = {
        '--bank-views': args.bank_views is not None,
        '--bank-top-k': args.bank_top_k is not None,
        '--bank-dtype': args.bank_dtype != 'float32',
        '--bank-features': args.bank_features,
    }
    if not args.teacher_bank:
        for option, on in options.items():
            if on:
                raise UserError(f'{option} is about a --teacher-bank; name its folder, or leave it out')
        return
    if args.bank_features and len(listed(args.teacher)) > len(listed(args.kd)):
        raise UserError('--bank-features: teachers that teach by one method have no features in common; leave it out')
    hindrances = {
        f'with {mixing_options(args)}: the teacher sees mixed images, which never come again': mixing_options(args),
        f"of '{args.dataset}', a stream: its images have no numbers (hfds/ and folders have)":
            is_stream_name(args.dataset),
        '(with --bank-views) for --seeds: each of them has other views': args.bank_views and args.seeds,
    }
    for reason, on in hindrances.items():
        if on:
            raise UserError(f'--teacher-bank keeps what the teacher says of a view of an image; not {reason}')


def check_method(args: Namespace, method: DistillMethod) -> None:
    """The same as `check_loss` for a distillation method, or several.

    Raises:
        UserError: Images are mixed, and a method takes class indices only; or it looks at features, which several
            teachers don't share, and is not told from which teacher to learn.
    """
    names = listed(args.kd)
    if method.needs_features and len(listed(args.teacher)) > len(names):
        raise UserError(
            f'--kd {args.kd} learns from features, and those of several teachers have nothing in common; give one '
            '--teacher, a method that needs logits only, or each teacher its own method (--kd A B)')
    methods = method.methods.values() if isinstance(method, SeveralMethods) else [method]
    for name, one in dict(zip(names, methods, strict=True)).items():
        _check_labels(args, f'--kd {name}', not one.needs_hard_labels)
        if args.bank_top_k is not None and one.corrects_prior:
            _logger.warning(
                f'--bank-top-k spreads what the teacher says of improbable classes evenly, and --kd {name} gives these '
                'more weight: leave it out, or use --kd kd or dkd')
        _warn_of_two_corrections(args, f'--kd {name}', one.corrects_prior)


def warn_of_corrected_teachers(
        args: Namespace, method: DistillMethod, corrected_by: Sequence[str]) -> None:
    """Warn of a teacher whose training has made up for the class frequencies, under a method that does so again.

    Args:
        method: What it teaches by.
        corrected_by: What in the teachers' training did, see `corrections`.
    """
    if method.corrects_prior and corrected_by:
        _logger.warning(
            f"the teacher's {corrected_by[0]} and --kd {' '.join(listed(args.kd))} both make up for the class "
            'frequencies: together they correct them twice; --kd kd leaves its soft labels as they are')


def corrections(options: Mapping[str, Any]) -> list[str]:
    """The options of a run that make up for the class frequencies, as `--kd bkd`; as far as they are known here.

    Args:
        options: Of train.py or distill.py, as args.yaml has them; of anything else there are none.
    """
    found, methods, prior = [], listed(options.get('kd')), ClassPrior([3, 2, 1])
    with suppress(UserError, TypeError, AttributeError):  # of a module not imported here, or written by another hand
        if methods and create_methods(
                methods, options.get('kd_kwargs') or {}, prior=prior, student_features=2,
                teacher_features=[2] * max(1, len(listed(options.get('teacher'))))).corrects_prior:
            found.append(f'--kd {" ".join(methods)}')
    if 'loss' in options and _loss_corrects(options['loss'], options.get('loss_kwargs') or {}):
        found.append(f'--loss {options["loss"]}')
    if options.get('class_sampling', 'instance') != 'instance':
        found.append(f'--class-sampling {options["class_sampling"]}')
    return found


def _loss_corrects(name: str, options: Mapping[str, Any]) -> bool:
    with suppress(UserError, TypeError, AttributeError):
        return create_loss(name, prior=ClassPrior([2, 1]), **options).corrects_prior
    return False


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
