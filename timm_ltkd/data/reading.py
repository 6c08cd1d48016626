"""One sample of a dataset: its image, or an error that names its file."""
import os
import struct
import zlib
from contextlib import closing
from tarfile import TarError

import numpy as np
from PIL import Image, UnidentifiedImageError
from timm.data import ImageDataset
from torch.utils.data import Dataset

from ..errors import UserError
from .labels import is_of_length
from .names import called

_BROKEN_FILE = (  # what PIL and archives raise
    OSError, SyntaxError, EOFError, struct.error, zlib.error, TarError, Image.DecompressionBombError)


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
            image = stream.read() if dataset.load_bytes else decode_image(stream, dataset.input_img_mode)
    except (TypeError, AssertionError) as e:  # of a row of a table without an image, or with an empty one
        raise _broken_image(dataset, index, ValueError('it holds no image')) from e
    except (*_BROKEN_FILE, ValueError) as e:
        raise _broken_image(dataset, index, e) from e
    if dataset.transform is not None:
        image = dataset.transform(image)
    if dataset.target_transform is not None:
        target = dataset.target_transform(target)
    return image, target


def read_image(path: str, mode: str | None = None) -> Image.Image:
    """An image file by itself, decoded as a sample's is.

    Args:
        path: The file.
        mode: Pillow's mode to convert to; None leaves it.

    Raises:
        UserError: It is missing, truncated or no image; names it.
    """
    try:
        with open(path, 'rb') as stream:
            return decode_image(stream, mode)
    except OSError as e:
        raise UserError(f"cannot read image '{path}': {_why(e)}; repair or remove it") from e


def decode_image(stream, mode: str | None) -> Image.Image:
    """An open image file, decoded, in one of Pillow's modes if one is given.

    What a file is shows in its bytes, not in its name; of an animation it is the first frame; EXIF turns nothing, as
    in timm.

    Raises:
        OSError: It is no image, or a broken one.
    """
    try:
        image = Image.open(stream)
        if image.format == 'EPS':  # which Pillow would have another program run
            raise OSError('it is PostScript, which is a program and no image')
        image.load()
        return convert(image, mode) if mode else image
    except UnidentifiedImageError as e:
        raise OSError(_why(e)) from e
    except (OSError, MemoryError):
        raise
    except Exception as e:  # each of Pillow's formats raises its own
        raise OSError(str(e) or type(e).__name__) from e


def convert(image: Image.Image, mode: str) -> Image.Image:
    """An image in another mode, as Pillow converts it, but for grey values of more than 8 bits.

    Pillow takes all above 255 for white; here, of whole numbers, 65535 is. Transparency is dropped, as timm does.

    Args:
        image: Decoded.
        mode: Pillow's, as 'RGB'.

    Raises:
        OSError: Grey values of which nobody knows what is white: above 65535, or floating-point numbers from 0 to 1 or
            above 255.
    """
    if image.mode.startswith('I') and not mode.startswith(('I', 'F')):
        grey = np.asarray(image).astype(np.int64)  # older Pillows hold 16 bits in 32
        if grey.max(initial=0) > 65535:
            raise OSError(f'its grey values go up to {grey.max()}; convert it to 8 or 16 bits')
        grey = grey.clip(0)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == 'F' and mode != 'F':
        largest = np.asarray(image).max(initial=0)
        if 0 < largest <= 1 or not largest <= 255:
            raise OSError(f'its grey values are floating-point numbers up to {largest:.4g}; convert it to 8 or 16 bits')
    elif image.mode == 'P' and 'transparency' in image.info:
        image = image.convert('RGBA')  # the same colours, without Pillow's warning
    return image.convert(mode)


def _broken_image(dataset: Dataset, index: int, error: Exception) -> UserError:
    name = sample_name(dataset, index, absolute=True)
    if isinstance(error, FileNotFoundError) and name:
        hint = ' (between folders it wants slashes, and has backslashes)' if '\\' in name and os.sep == '/' else ''
        return UserError(f"there is no image '{name}'{hint}; put it there, or check the data folder and what lists it")
    what = f"image '{name}'" if name else f'image {index} of {called(dataset)}'
    return UserError(f"cannot read {what}: {_why(error, named=bool(name))}; repair or remove it")


def _why(error: Exception, named: bool = True) -> str:
    """On one line, without Pillow's name for a stream, nor that of the file, if it is `named` beside."""
    if isinstance(error, UnidentifiedImageError):
        return 'it is no image'
    return ' '.join(str(getattr(error, 'strerror', None) or error if named else error).split())


def sample_name(dataset: Dataset, index: int, basename: bool = False, absolute: bool = False) -> str | None:
    """The file of a sample as timm names it, relative to the dataset's root unless asked otherwise; None if none."""
    if callable(getattr(dataset, 'filename', None)):  # torchvision's CIFAR keeps its archive's name there
        try:
            return dataset.filename(index, basename=basename, absolute=absolute)
        except TypeError:  # a row of a table without an image
            return None
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
        if is_of_length(files, len(dataset)):
            entry = files[index]
            path = entry[0] if isinstance(entry, tuple | list) else entry
            return os.fspath(path) if isinstance(path, str | os.PathLike) else None
    return None
