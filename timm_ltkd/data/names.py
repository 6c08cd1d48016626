"""What data sets and their splits are called: `lt/` before a name of timm's stands for a set that is, or can be made,
long-tailed."""
from torch.utils.data import Dataset

PREFIX = 'lt/'
TRAIN_SPLITS = ('train', 'training')  # as timm's factory has them
EVAL_SPLITS = ('val', 'valid', 'validation', 'eval', 'evaluation')
SPLITS = (*TRAIN_SPLITS, *EVAL_SPLITS, 'test')


def is_long_tailed_name(name: str) -> bool:
    """Whether a name begins with `lt/`."""
    return name.lower().startswith(PREFIX)


def plain_name(name: str) -> str:
    """A name without `lt/`; most are without."""
    return name[len(PREFIX):] if is_long_tailed_name(name) else name


def called(dataset: Dataset) -> str:
    """What messages call a data set: its split, where it is one of a Hugging Face data set, else what kind it is."""
    split = getattr(getattr(dataset, 'reader', None), 'split', None)
    return f"split '{split}'" if isinstance(split, str) else type(getattr(dataset, 'base', dataset)).__name__


def is_train_split(split: str) -> bool:
    """Whether a split is the one to train on: `train`, `train[:90%]`, `training`, `full/train`, `train.tar`."""
    return _last_name(split) in TRAIN_SPLITS


def is_eval_split(split: str) -> bool:
    """Whether a split is one to measure on, by its name."""
    return _last_name(split) in (*EVAL_SPLITS, 'test')


def _last_name(split: str) -> str:
    return split.split('/')[-1].split('[')[0].removesuffix('.tar')


def is_split_name(name: str) -> bool:
    """Whether a folder or tar file of this name is that of a split."""
    return name.removesuffix('.tar') in SPLITS
