"""What is trained on: any timm dataset, long-tailed, under one class map, with repeatable augmentation."""
from .dataset import LongTailedDataset
from .digits import DIGITS_IMBALANCE_FACTOR, DigitsDataset
from .factory import create_dataset
from .labels import dataset_class_names, dataset_targets
from .loader import create_eval_loader, create_train_loader
from .plugin import register
from .sampler import EpochBatchSampler, ShardSampler
from .seeded import SeededDataset
from .selection import IMBALANCE_TYPES, long_tail_counts, long_tail_indices, read_class_counts
from .splits import Splits, create_splits, fingerprint
from .transforms import create_eval_transform, create_train_transform

__all__ = [
    'DIGITS_IMBALANCE_FACTOR',
    'IMBALANCE_TYPES',
    'DigitsDataset',
    'EpochBatchSampler',
    'LongTailedDataset',
    'SeededDataset',
    'ShardSampler',
    'Splits',
    'create_dataset',
    'create_eval_loader',
    'create_eval_transform',
    'create_splits',
    'create_train_loader',
    'create_train_transform',
    'dataset_class_names',
    'dataset_targets',
    'fingerprint',
    'long_tail_counts',
    'long_tail_indices',
    'read_class_counts',
    'register',
]
