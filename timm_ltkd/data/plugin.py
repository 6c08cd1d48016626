"""What importing this package adds to timm's data: long-tailed CIFAR under timm's own names, and image endings."""
import warnings
from functools import partial

from timm.data import dataset_factory
from timm.data.readers import add_img_extensions
from torchvision.datasets.folder import IMG_EXTENSIONS

from .dataset import LongTailedDataset
from .factory import create_dataset
from .names import PREFIX

IMBALANCE_FACTORS = (10, 20, 50, 100, 200)


def register() -> None:
    """Let `timm.data.create_dataset` make `torch/cifar{10,100}_lt{10,20,50,100,200}`, and read in folders and tar files
    images of all the endings that torchvision reads, which are `.webp`, `.bmp`, `.tif` and more.

    timm looks a `torch/` name up in a table when it is called. A timm without that table gets no such name, and one
    warning that says so.
    """
    add_img_extensions(IMG_EXTENSIONS)
    makers = {
        f'{name}_lt{factor}': partial(_long_tailed, name, factor)
        for name in ('cifar10', 'cifar100')
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


def _long_tailed(name: str, factor: int, *, train: bool = True, **kwargs) -> LongTailedDataset:
    """As timm's factory calls torchvision's classes."""
    split = 'train' if train else 'test'
    return create_dataset(PREFIX + name, split=split, imbalance_factor=factor, **kwargs)
