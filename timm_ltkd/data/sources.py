"""Where images come from: the whole of a split, by each of the ways there are, with errors that say what to do."""
import os
from functools import partial
from tarfile import TarError

import timm.data
from timm.data import dataset_factory
from timm.data.readers import get_img_extensions
from timm.utils import natural_key
from torch.utils.data import Dataset
from torchvision.datasets import MNIST

from ..errors import UserError, last_line, nearest, reason
from .class_map import load_class_map
from .coloured import Coloured
from .digits import DigitsDataset
from .folders import check_folders, check_members, find_split, list_folders, number_classes
from .labels import dataset_class_names, names_by_index
from .lists import ImageList, PackedSamples, ReaderImageList, read_list
from .names import PREFIX, SPLITS, is_train_split
from .own import create_own
from .reading import read_image
from .tiny_imagenet import read_tiny_imagenet

_OTHER_TORCH_NAMES = ('folder', 'image_folder', 'imagenet', 'inat', 'inaturalist', 'places365', 'qmnist')


def torch_names() -> list[str]:
    """The names that go behind `torch/`."""
    return [*getattr(dataset_factory, '_TORCH_BASIC_DS', ()), *_OTHER_TORCH_NAMES]


def create_whole(name: str, root, split: str, training: bool, class_map, list_file, kwargs: dict) -> Dataset:
    """A split with all its images.

    Args:
        name: 'digits', 'tinyimagenet', 'folder', 'list', 'torch/...', 'hfds/...' or 'own/...'.
        root, split, training, class_map, list_file: As `create_dataset`.
        kwargs: For timm's factory and the dataset it makes.

    Raises:
        UserError: As `create_dataset`.
    """
    kind = name.split('/')[0]
    _check_options(name, kind, class_map, kwargs)
    if kind == 'digits':
        return _create_digits(split, **kwargs)
    if kind == 'own':
        return create_own(name.partition('/')[2], root, split, kwargs)
    if kind == 'torch':
        return _create_torch(name, root, split, kwargs)
    if kind == 'tinyimagenet':
        return _create_listed(read_tiny_imagenet(_data_folder(root, name), split), root, **kwargs)
    classes = load_class_map(class_map, root)
    if kind == 'list':
        images = read_list(list_file, classes and names_by_index(classes))
        if root is None and all(map(os.path.isabs, images.paths)):
            root = os.sep
        return _create_listed(images, _data_folder(root, name), **kwargs)
    if kind == 'hfds':
        return _create_hfds(name, root, split, classes, kwargs)
    return _create_folder(root, split, training, classes, kwargs)


def _check_options(name: str, kind: str, class_map, kwargs: dict) -> None:
    called = PREFIX + name.removeprefix('own/') if kind in ('digits', 'own', 'tinyimagenet') else name
    if class_map is not None and kind in ('digits', 'own', 'tinyimagenet', 'torch'):
        raise UserError(
            f"'{called}' has its own classes; a class map is for folders, tar files, lists, hfds/ and streams")
    for key in ('input_key', 'target_key'):
        if key in kwargs and kind != 'hfds':
            raise UserError(
                f"'{called}' has no columns to choose {key} from (--{key.replace('_', '-')}); hfds/ data sets and "
                'streams have')


def _data_folder(root, name: str) -> str | os.PathLike:
    if root is None:
        raise UserError(f"'{name}' needs a data folder (root, --data-dir)")
    if not os.path.isdir(root):
        raise UserError(f"the data folder '{root}' does not exist")
    return root


def _create_listed(images: ImageList, root, download: bool = False, **kwargs) -> timm.data.ImageDataset:
    """timm's dataset of images that are named one by one; there is nothing to download."""
    return timm.data.ImageDataset(root, reader=ReaderImageList(root, *images), **kwargs)


def _create_digits(split: str, download: bool = False, **kwargs) -> DigitsDataset:
    """`download` may be given as for any other set; there is nothing to fetch."""
    _check_two_parts('digits', split)
    return DigitsDataset(train=is_train_split(split), **kwargs)


def has_two_parts(name: str) -> bool:
    """Whether a set (named as for `create_whole`) has a training and a test part, whatever the second is called."""
    kind, _, rest = name.partition('/')
    return kind == 'digits' or kind == 'torch' and rest in getattr(dataset_factory, '_TORCH_BASIC_DS', ())


def _check_two_parts(name: str, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"'{name}' has no split '{split}'{nearest(split, SPLITS)}")


def _create_torch(name: str, root, split: str, kwargs: dict):
    if root is None:
        raise UserError(f"'{name}' needs a data folder (root, --data-dir)")
    download = kwargs.get('download', False)
    if not download and not os.path.isdir(root):
        raise UserError(f"the data folder '{root}' does not exist; --dataset-download fetches the data")
    kind, kwargs = name.split('/')[1], dict(kwargs)
    if has_two_parts(name):
        _check_two_parts(name, split)  # timm would take any other name for the test set
    elif kind in ('folder', 'image_folder'):
        root = find_split(root, split)
        kwargs.setdefault('loader', partial(read_image, mode='RGB'))  # torchvision's own takes 16 bits for white
    try:
        base = timm.data.create_dataset(name, root=str(root), split=split, search_split=False, **kwargs)
        return Coloured(base) if isinstance(base, MNIST) else base
    except (TypeError, UserError):  # TypeError: of an option that is not known, which is told elsewhere
        raise
    except Exception as e:  # whatever is raised of a damaged file
        hint = '' if download else '; if it is not there yet, fetch it with --dataset-download'
        raise UserError(f"cannot read '{name}' from '{root}': {last_line(e)}{hint}") from e


def _create_hfds(name: str, root, split: str, class_map: dict | None, kwargs: dict):
    try:
        dataset = timm.data.create_dataset(
            name, root=None if root is None else str(root), split=split, class_map=class_map, **kwargs)
    except NotImplementedError as e:  # Arrow cannot take these values for images
        raise UserError(f"column '{kwargs.get('input_key', 'image')}' of '{name}' holds no images (--input-key)") from e
    except AttributeError as e:  # timm before it took a label column of plain integers
        raise UserError(f"this timm reads '{name}' only with named classes or a class map; update timm") from e
    except TypeError:  # as above
        raise
    except Exception as e:  # `datasets` has errors of its own
        if 'save_to_disk' in str(e):
            raise UserError(
                f"'{name}' is one split as save_to_disk leaves it, and a run needs two: save a DatasetDict of both, or "
                'write them as parquet files') from e
        if "column names don't match" in str(e):  # datasets before it took a missing column for one without images
            key = kwargs.get('input_key', 'image')
            raise UserError(f"'{name}' has no image column '{key}'; choose another (--input-key)") from e
        place, generated = name.partition('/')[2], type(e).__name__ == 'DatasetGenerationError'
        why = e.__cause__ if generated and e.__cause__ else e
        gone = ': there is no such folder' if place.startswith(('.', '/')) and not os.path.exists(place) else ''
        raise UserError(f"cannot read split '{split}' of '{name}'{gone or f': {last_line(why)}'}") from e
    _check_image_column(dataset.reader, name)
    return dataset


def _check_image_column(reader, name: str) -> None:
    """Refuse a table that has no such column: it is given one, without images."""
    images = reader.dataset.data.column(reader.image_key)
    if len(images) and images.null_count == len(images):
        columns = reader.dataset.features.items()
        images = [key for key, kind in columns if type(kind).__name__ == 'Image' and key != reader.image_key]
        known = ', '.join(images or [key for key, _ in columns if key != reader.image_key])
        raise UserError(f"'{name}' has no image column '{reader.image_key}'; choose one of: {known} (--input-key)")


def _create_folder(root, split: str, training: bool, class_map: dict | None, kwargs: dict):
    if root is None:
        raise UserError('image folders need a data folder (root, --data-dir)')
    path = find_split(root, split)
    tar = os.path.isfile(path)
    if tar and not path.endswith('.tar'):
        raise UserError(f"'{path}' is neither a folder nor a tar file")
    # opened for each image, as an open one can neither be pickled nor shared with forked workers; and without the
    # pickled list of its images that timm would read and write beside it
    reader_options = dict(cache_tarfiles=False, cache_tarinfo=False) if tar else {}
    try:
        folders = list_folders(path)  # first, as timm would follow a link that leads back on and on
        base = timm.data.create_dataset(
            'folder', root=path, search_split=False, class_map=class_map, **reader_options, **kwargs)
    except UserError:  # a ValueError too, and told already
        raise
    except (RuntimeError, ValueError) as e:  # ValueError: timm's way to say it of a tar file
        if 'invalid literal for int' in str(e):
            raise UserError(
                f"'{path}' has a folder or image with a digit in its name that timm cannot sort by, such as ² or ① "
                f'({last_line(e)}): rename it') from e
        of_map = '' if class_map is None else ' that the class map names'
        raise UserError(
            f"no images ({' '.join(get_img_extensions())}) in the classes of '{path}'{of_map} ({last_line(e)})") from e
    except (OSError, EOFError, TarError) as e:
        raise UserError(f"cannot read '{path}': {reason(e)}") from e
    if tar:
        check_members(base, path)
    else:
        base.reader.samples.sort(key=lambda sample: _name_order(sample[0]))
        base.reader.samples = PackedSamples(base.reader.samples)  # or each loader worker ends up with a copy of its own
    if class_map is None:
        number_classes(base, sorted(dataset_class_names(base), key=_name_order))
    check_folders(base, folders, training, mapped=class_map is not None)
    return base


def _name_order(name: str) -> tuple:
    """timm's, but the same in every process and copy for names that it takes to be alike: A and a, 1 and 01."""
    return natural_key(name), name
