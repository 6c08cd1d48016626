"""One sample of a dataset: its image, or an error that names its file."""
import os
import struct
import zlib
from contextlib import closing

from PIL import Image
from timm.data import ImageDataset
from torch.utils.data import Dataset

from ..errors import UserError

_BROKEN_FILE = (OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)  # as PIL does


def read_sample(dataset: Dataset, index: int) -> tuple:
    """`(image, target)` with the dataset's transforms applied.

    timm's `ImageDataset` skips to the next image when one is broken, which would train on another image than the one
    that was asked for; its reader is asked directly here.

    Raises:
        UserError: The image is missing, truncated or no image; names it.
    """
    if isinstance(dataset, ImageDataset):
        return _read_timm_sample(dataset, index)
    try:
        return dataset[index]
    except _BROKEN_FILE as e:
        raise _broken_image(dataset, index, e) from e


def _read_timm_sample(dataset: ImageDataset, index: int) -> tuple:
    try:
        stream, target = dataset.reader[index][:2]
        with closing(stream):
            image = stream.read() if dataset.load_bytes else _decode(stream, dataset.input_img_mode)
    except (*_BROKEN_FILE, ValueError) as e:
        raise _broken_image(dataset, index, e) from e
    if dataset.transform is not None:
        image = dataset.transform(image)
    if dataset.target_transform is not None:
        target = dataset.target_transform(target)
    return image, target


def _decode(stream, mode: str | None) -> Image.Image:
    image = Image.open(stream)
    image.load()
    return image.convert(mode) if mode else image


def _broken_image(dataset: Dataset, index: int, error: Exception) -> UserError:
    name = sample_name(dataset, index, absolute=True)
    what = f"image '{name}'" if name else f'image {index} of {type(dataset).__name__}'
    return UserError(f"cannot read {what}: {' '.join(str(error).split())}; repair or remove it")


def sample_name(dataset: Dataset, index: int, basename: bool = False, absolute: bool = False) -> str | None:
    """The file of a sample as timm names it, relative to the dataset's root unless asked otherwise; None if none."""
    if callable(getattr(dataset, 'filename', None)):  # torchvision's CIFAR keeps its archive's name there
        return dataset.filename(index, basename=basename, absolute=absolute)
    path = _stored_path(dataset, index)
    if path is None:
        return None
    if basename:
        return os.path.basename(path)
    root = getattr(dataset, 'root', None)
    return path if absolute or root is None else os.path.relpath(path, root)


def _stored_path(dataset: Dataset, index: int) -> str | None:
    """The path torchvision keeps, either in (path, label) pairs or in a list of files."""
    for attribute in ('samples', '_samples', 'imgs', '_image_files', '_images'):
        files = getattr(dataset, attribute, None)
        if files is not None and len(files) == len(dataset):
            entry = files[index]
            path = entry[0] if isinstance(entry, tuple | list) else entry
            return os.fspath(path) if isinstance(path, str | os.PathLike) else None
    return None
