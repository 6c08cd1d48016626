"""Families of options: of the place and the manner of a run, of data and views; and how some are read."""
from argparse import Namespace

from .plain_yaml import dump_yaml

PLACE = frozenset(('config', 'output', 'experiment', 'resume', 'overwrite', 'push_to_hub', 'hub_private'))
"""Where a run comes from and goes."""

MANNER = frozenset((
    'workers', 'pin_mem', 'validation_batch_size', 'num_classes', 'log_with', 'log_interval', 'checkpoint_interval',
    'license'))
"""How it is carried out, watched and labelled: nothing of what it trains, as of its place."""

DATA = frozenset((
    'dataset', 'data_dir', 'train_list', 'val_list', 'train_split', 'val_split', 'class_map', 'input_key', 'target_key',
    'dataset_download', 'imbalance_factor', 'imbalance_type', 'imbalance_seed', 'max_per_class', 'class_counts',
    'holdout', 'holdout_type', 'many_shot', 'few_shot', 'on_bad_image'))
"""Which images there are, and what they are called."""

VIEW = frozenset((
    'no_aug', 'train_crop_mode', 'crop_padding', 'scale', 'ratio', 'hflip', 'vflip', 'color_jitter', 'aa',
    'train_interpolation', 'reprob', 'remode', 'recount'))
"""What a network is shown of an image."""


DEPENDENT = {
    'class_sampling': ('stage', lambda stage: 'class' if stage in ('crt', 'lws') else 'instance'),
    'eval_metric': ('holdout', lambda share: 'balanced' if share else 'top1'),
    'teacher_tune': ('teacher_checkpoint', lambda source: 'none' if source else 'all'),
}
"""Options whose default depends on another one: which, and how."""


def listed(value: str | list[str] | None) -> list[str]:
    """An option that takes one value or several, as a list; empty if it is not given."""
    return value if isinstance(value, list) else [value] if value else []


def dump_config(args: Namespace) -> str:
    """All options that make up a run, as YAML that `--config` takes."""
    return dump_yaml({key: value for key, value in sorted(vars(args).items()) if key not in PLACE})


def trained_network(args: Namespace) -> str:
    """The name of what a run trains: --model of train.py, --student of distill.py."""
    return args.model if 'model' in args else args.student


def teacher_names(args: Namespace) -> list[str]:
    """What the log calls the teachers: their networks, or where two are alike and have checkpoints, these."""
    names, checkpoints = listed(args.teacher), listed(args.teacher_checkpoint)
    return checkpoints if len({*names}) < len(names) == len(checkpoints) else names
