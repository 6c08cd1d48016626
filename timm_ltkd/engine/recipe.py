"""What a run is made of: its data, and a key that tells equal runs from different ones."""
import hashlib
import json
import logging
from argparse import Namespace
from typing import Any, NamedTuple

from accelerate import Accelerator

from ..data import Splits, create_splits, fingerprint
from ..prior import ClassPrior

_logger = logging.getLogger(__name__)

# options that change neither the data (the fingerprint stands for it) nor the weights that come out
NO_PART = frozenset((
    'config', 'output', 'experiment', 'resume', 'overwrite', 'workers', 'pin_mem', 'log_with', 'log_interval',
    'val_interval', 'eval_metric', 'validation_batch_size', 'num_classes', 'crop_pct', 'interpolation',
    'dataset', 'data_dir', 'train_split', 'val_split', 'class_map', 'dataset_download', 'imbalance_factor',
    'imbalance_type', 'imbalance_seed', 'max_per_class', 'class_counts', 'batch_size', 'grad_accum_steps',
))


class Data(NamedTuple):
    """The two splits, the class prior of the training split, and a fingerprint of both splits."""
    splits: Splits
    prior: ClassPrior
    fingerprint: str


def load_data(args: Namespace, accelerator: Accelerator) -> Data:
    """Make the data sets that the options name; with a download, one process goes first."""
    def load():
        return create_splits(
            args.dataset,
            root=args.data_dir,
            train_split=args.train_split,
            val_split=args.val_split,
            class_map=args.class_map,
            download=args.dataset_download,
            imbalance_factor=args.imbalance_factor,
            imbalance_type=args.imbalance_type,
            seed=args.imbalance_seed,
            max_per_class=args.max_per_class,
            class_counts=args.class_counts,
        )
    if args.dataset_download:
        with accelerator.main_process_first():
            splits = load()
    else:
        splits = load()
    return Data(splits, ClassPrior(splits.train.class_counts, splits.class_names), fingerprint(splits))


def recipe_key(args: Namespace, data: Data, accelerator: Accelerator, **more: Any) -> str:
    """16 hex digits that are equal for runs that give the same weights, and differ otherwise.

    The same global batch from more processes or accumulation counts as the same recipe.
    """
    recipe = {key: value for key, value in vars(args).items() if key not in NO_PART}
    recipe |= more
    recipe['global_batch'] = global_batch(args, accelerator)
    recipe['precision'] = str(accelerator.mixed_precision)
    recipe['data'] = data.fingerprint
    text = json.dumps(recipe, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def global_batch(args: Namespace, accelerator: Accelerator) -> int:
    """Images of one update over all processes."""
    return args.batch_size * args.grad_accum_steps * accelerator.num_processes
