"""What is trained on: any timm dataset, long-tailed, under one class map, with repeatable augmentation."""
from .bad_images import count_skipped, skip_bad_images
from .class_counts import read_class_counts
from .class_map import match_class_names, read_class_map
from .class_sampling import CLASS_SAMPLINGS, class_shares, epoch_order
from .dataset import LongTailedDataset
from .digits import DIGITS_IMBALANCE_FACTOR, DigitsDataset
from .factory import create_dataset
from .holdout import HOLDOUT_TYPES, hold_out, holdout_counts, holdout_positions
from .identity import fingerprint
from .image_files import create_image_loader, find_images
from .labels import dataset_class_names, dataset_targets
from .loader import create_eval_loader, create_train_loader, epoch_plan, epoch_views, views_per_image
from .mixing import SeededMixup, check_cutmix_minmax
from .own import register_dataset
from .plugin import register
from .resident import ResidentEvalLoader, ResidentImages, ResidentTrainLoader, machine_memory
from .sampler import EpochBatchSampler, ShardSampler
from .seeded import GENERATORS, SeededDataset, seeded_generators
from .selection import IMBALANCE_TYPES, long_tail_counts, long_tail_indices
from .splits import SkippedImage, Splits, create_splits, create_val_split, in_both
from .streams import StreamDataset, is_stream_name
from .transforms import CROP_MODES, ERASE_MODES, create_eval_transform, create_train_transform
from .views import TwoViews, Views
from .workers import stop_workers

__all__ = [
    'CLASS_SAMPLINGS',
    'CROP_MODES',
    'DIGITS_IMBALANCE_FACTOR',
    'ERASE_MODES',
    'GENERATORS',
    'HOLDOUT_TYPES',
    'IMBALANCE_TYPES',
    'DigitsDataset',
    'EpochBatchSampler',
    'LongTailedDataset',
    'ResidentEvalLoader',
    'ResidentImages',
    'ResidentTrainLoader',
    'SeededDataset',
    'SeededMixup',
    'ShardSampler',
    'SkippedImage',
    'Splits',
    'StreamDataset',
    'TwoViews',
    'Views',
    'check_cutmix_minmax',
    'class_shares',
    'count_skipped',
    'create_dataset',
    'create_eval_loader',
    'create_eval_transform',
    'create_image_loader',
    'create_splits',
    'create_train_loader',
    'create_train_transform',
    'create_val_split',
    'dataset_class_names',
    'dataset_targets',
    'epoch_order',
    'epoch_plan',
    'epoch_views',
    'find_images',
    'fingerprint',
    'hold_out',
    'holdout_counts',
    'holdout_positions',
    'in_both',
    'is_stream_name',
    'long_tail_counts',
    'long_tail_indices',
    'machine_memory',
    'match_class_names',
    'read_class_counts',
    'read_class_map',
    'register',
    'register_dataset',
    'seeded_generators',
    'skip_bad_images',
    'stop_workers',
    'views_per_image',
]
