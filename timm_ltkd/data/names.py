"""What data sets are called: `lt/` before a name of timm's stands for a set that is, or can be made, long-tailed."""
from torch.utils.data import Dataset

PREFIX = 'lt/'


def is_long_tailed_name(name: str) -> bool:
    """Whether a name begins with `lt/`."""
    return name.lower().startswith(PREFIX)


def plain_name(name: str) -> str:
    """A name without `lt/`; most are without."""
    return name[len(PREFIX):] if is_long_tailed_name(name) else name


def called(dataset: Dataset) -> str:
    """What messages call a data set: its split, where it is one of a Hugging Face data set, else what kind it is."""
    split = getattr(getattr(dataset, 'reader', None), 'split', None)
    return f"split '{split}'" if isinstance(split, str) else type(dataset).__name__
