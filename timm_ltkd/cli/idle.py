"""Options that are given and have nothing to act on: told of, so that none is ignored without a word."""
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from timm.optim import get_optimizer_info

from ..data.published import BY_COUNTS
from ..options import VIEW, listed
from ..report.text import flag
from .defaults import fill_defaults

_DEFAULTS_DEPEND_ON = ('dataset', 'train_list', 'pretrained', 'initial_checkpoint', 'stage', 'holdout')
_SCHEDULES = {
    'decay_milestones': ('multistep',),
    'decay_epochs': ('step',),
    'decay_rate': ('step', 'multistep', 'plateau', 'poly'),
    'patience_epochs': ('plateau',),
    'min_lr': ('cosine', 'tanh', 'poly', 'plateau'),
    'cooldown_epochs': ('cosine', 'tanh', 'poly'),
    'warmup_prefix': ('cosine', 'tanh', 'poly', 'step', 'multistep'),
    'sched_on_updates': ('cosine', 'tanh', 'poly', 'step', 'multistep'),
}


def tell_idle(
        args: Namespace,
        parser: ArgumentParser,
        others: list[Namespace] | None = None,
        passed_over: Sequence[str] = (),
) -> str:
    """Which options are other than usual and change nothing, with the reason; '' where there are none.

    Args:
        args: All options, defaults filled in.
        parser: Knows what is usual.
        others: Options of trainings that take those of this one over; what acts there is not idle.
        passed_over: Options in a `--teacher-config` that do not count there.
    """
    usual = parser.parse_args([])
    vars(usual).update({key: getattr(args, key) for key in _DEFAULTS_DEPEND_ON if key in args})
    fill_defaults(usual)
    idle = {key: why for key, why in _idle(args) if key in args and getattr(args, key) != getattr(usual, key)}
    trained = others if others and args.teacher_tune != 'none' else ()
    for other in trained:
        idle_there = {'seed', *dict(_idle(other))}  # it has a seed of its own
        idle = {key: why for key, why in idle.items() if key not in other or key in idle_there}
    if others and any(other.model_kwargs or other.small_image_stem for other in others):
        idle.pop('teacher_config', None)  # which says how the network of weights is made
    told = [f'{flag(key if getattr(args, key) is not False else f"no_{key}")} ({why})' for key, why in idle.items()]
    if passed_over and 'teacher_config' not in idle:
        told.append(
            f"{', '.join(passed_over)} in --teacher-config (a teacher has its student's data and input, and one seed)")
    return ', '.join(told)


def _idle(args: Namespace) -> Iterator[tuple[str, str]]:
    """Each option that has nothing to act on beside the others, given or not, and why."""
    refused = ('scale', 'ratio') if args.train_crop_mode == 'pad' else ()  # anyway
    mixup, minmax = args.mixup > 0, args.cutmix_minmax is not None
    cutmix = args.cutmix > 0 or minmax
    own_profile = args.dataset.lower() == 'lt/digits' and args.class_counts is None
    conditions = {
        'there is no --model-ema': (not args.model_ema, ('model_ema_decay', 'model_ema_warmup')),
        'images are not mixed': (not (mixup or cutmix), ('mixup_prob', 'mixup_mode', 'mixup_off_epoch')),
        'not both --mixup and --cutmix are on': (not (mixup and cutmix), ('mixup_switch_prob',)),
        '--cutmix-minmax draws the boxes': (minmax, ('cutmix',)),
        'there is no --reprob': (not args.reprob, ('remode', 'recount')),
        'there is no --train-crop-mode pad': (args.train_crop_mode != 'pad', ('crop_padding',)),
        '--aa takes its place': (bool(args.aa) and '3a' not in args.aa, ('color_jitter',)),
        'there is no --clip-grad': (args.clip_grad is None, ('clip_mode',)),
        'there are no --warmup-epochs': (not args.warmup_epochs, ('warmup_lr', 'warmup_prefix')),
        '--seeds names them': (args.seeds is not None, ('seed',)),
        'there is no --experiment': (args.experiment is None, ('overwrite',)),
        'there is no --holdout': (not args.holdout, ('holdout_type',)),
        'there is no --imbalance-factor': (args.imbalance_factor is None and not own_profile, ('imbalance_type',)),
        'nothing is selected by it': (
            args.imbalance_factor is None and args.class_counts is None and not args.holdout and not own_profile
            and not args.dataset.lower().endswith(BY_COUNTS), ('imbalance_seed',)),
        'there is no --initial-checkpoint': (not args.initial_checkpoint, ('new_head',)),
        '--no-aug leaves images as they are': (args.no_aug, sorted(VIEW - {'no_aug', 'train_interpolation', *refused})),
    }
    for why, (holds, keys) in conditions.items():
        yield from ((key, why) for key in keys if holds)
    for key, schedules in _SCHEDULES.items():
        if args.sched not in schedules:
            yield key, f'no part of --sched {args.sched}'
    yield from _idle_of_optimizer(args)
    if 'teacher' in args:
        yield from _idle_of_teacher(args)


def _idle_of_optimizer(args: Namespace) -> Iterator[tuple[str, str]]:
    with suppress(ValueError):  # of a name that timm doesn't know, which is told elsewhere
        info = get_optimizer_info(args.opt.lower().removeprefix('lookahead_'))
        for key, has in {'momentum': info.has_momentum, 'opt_eps': info.has_eps, 'opt_betas': info.has_betas}.items():
            if not has:
                yield key, f'no option of --opt {args.opt}'


def _idle_of_teacher(args: Namespace) -> Iterator[tuple[str, str]]:
    sources = listed(args.teacher_checkpoint)
    in_folders = bool(sources) and all(Path(source).is_dir() for source in sources)
    if args.teacher_tune == 'none':
        for key in ('teacher_seed', 'teacher_config'):
            yield key, 'the teacher is not trained'
    if sources:
        yield 'teacher_pretrained', 'there is a --teacher-checkpoint'
    if in_folders:
        yield 'teacher_small_image_stem', 'the folder of the --teacher-checkpoint says how it is made'
