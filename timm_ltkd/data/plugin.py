"""What importing this package adds to timm's data: long-tailed CIFAR under timm's own names, and image endings."""
import warnings
from functools import partial

from timm.data import dataset_factory
from timm.data.readers import add_img_extensions
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS

from .dataset import LongTailedDataset
from .selection import long_tail_counts, long_tail_indices

IMBALANCE_FACTORS = (10, 20, 50, 100, 200)


def register() -> None:
    """Let `timm.data.create_dataset` make `torch/cifar{10,100}_lt{10,20,50,100,200}`, and read in folders and tar files
    images of all the endings that torchvision reads, which are `.webp`, `.bmp`, `.tif` and more.

    timm looks a `torch/` name up in a table when it is called. A timm without that table gets nothing registered, and
    one warning that says so.
    """
    add_img_extensions(IMG_EXTENSIONS)
    makers = {
        f'{name}_lt{factor}': partial(create_long_tailed, dataset_class, factor)
        for name, dataset_class in (('cifar10', CIFAR10), ('cifar100', CIFAR100))
        for factor in IMBALANCE_FACTORS
    }
    table = getattr(dataset_factory, '_TORCH_BASIC_DS', None)
    if isinstance(table, dict):
        table.update(makers)
    else:
        names = ', '.join(f'torch/{name}' for name in makers)
        warnings.warn(
            f'this timm has no table of torch/ datasets, so these are not registered: {names}; '
            "timm_ltkd.create_dataset('lt/cifar100', ...) makes them all the same",
            stacklevel=2)


def create_long_tailed(
        dataset_class: type,
        imbalance_factor: float,
        *,
        train: bool = True,
        **kwargs,
) -> LongTailedDataset:
    """A torchvision dataset, its training part long-tailed: exponential, seed 0, largest class as its smallest was.

    Args:
        dataset_class: Takes `train` and `kwargs`, as `torchvision.datasets.CIFAR10` does.
        imbalance_factor: Largest class / smallest class.
        train: Which part; the test part is whole.
        **kwargs: `root`, `download`, `transform`, ...
    """
    dataset = LongTailedDataset(dataset_class(train=train, **kwargs))
    if not train:
        return dataset
    counts = long_tail_counts(len(dataset.class_names), int(dataset.class_counts.min()), imbalance_factor)
    return dataset.subset(long_tail_indices(dataset.targets, counts, class_names=dataset.class_names))
