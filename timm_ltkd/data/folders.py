"""Image folders and tar files: where a split lies, and which classes have no image."""
import logging
import os
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from timm.data import ImageDataset
from timm.data.readers import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from ..errors import UserError, first_few
from .labels import dataset_class_names
from .lists import PackedSamples
from .names import EVAL_SPLITS, TRAIN_SPLITS, is_split_name

_SYSTEM_FOLDERS = ('__MACOSX', '@eaDir')
_OTHER_ENDINGS = ('.gif', '.jfif', '.jp2', '.avif', '.heic')
_logger = logging.getLogger(__name__)
Folders = Mapping[PurePosixPath, Counter[str]]


def find_split(root: str | os.PathLike, split: str) -> str:
    """The folder or tar file of a split: below `root` as timm looks for it (`train` or `training`, `val` or
    `validation`, ...), there also with `.tar` behind its name, or `root` itself where it holds no split of any name
    and this is one of them.

    Raises:
        UserError: No such root, or a root without this split that has others, or a split of a name of its own.
    """
    if not os.path.exists(root):
        raise UserError(f"the data folder '{root}' does not exist")
    if os.path.isfile(root):
        return str(root)
    for name in _synonyms(split):
        for path in (os.path.join(root, name), os.path.join(root, f'{name}.tar')):
            if os.path.isdir(path) or path.endswith('.tar') and os.path.isfile(path):
                return path
    present = [entry for entry in sorted(os.listdir(root)) if is_split_name(entry)]
    if present:
        make = '; how to make one is in docs/own_data.md' if split in EVAL_SPLITS else ''
        raise UserError(f"there is no split '{split}' in '{root}'; it has: {', '.join(present)}{make}")
    if other := [entry for entry in sorted(os.listdir(root)) if is_split_name(entry.lower())]:
        raise UserError(
            f"there is no split '{split}' in '{root}'; it has: {', '.join(other)}: rename them in small letters")
    if not is_split_name(split):
        raise UserError(f"there is no folder '{split}' in '{root}'")
    return str(root)


def _synonyms(split: str) -> list[str]:
    others = next((names for names in (TRAIN_SPLITS, EVAL_SPLITS) if split in names), ())
    return [split, *(name for name in others if name != split)]


def split_folder(dataset: Dataset) -> str | None:
    """The folder or tar file that a split's images were found in; None for other kinds of data."""
    if classes_come_from_folders(dataset):
        return dataset.reader.root
    return dataset.root if isinstance(dataset, ImageFolder) else None


def classes_come_from_folders(dataset: Dataset) -> bool:
    """Whether timm numbered the classes by the folders it found images in (and takes a class map instead)."""
    return isinstance(dataset, ImageDataset) and isinstance(dataset.reader, ReaderImageFolder | ReaderImageInTar)


def number_classes(dataset: ImageDataset, class_names: Sequence[str]) -> None:
    """Give the classes of a folder or tar file the indices that they have in `class_names`, which may hold more."""
    index = {name: c for c, name in enumerate(class_names)}
    reader, numbers = dataset.reader, [index[name] for name in dataset_class_names(dataset)]
    if isinstance(reader, ReaderImageInTar):
        reader.targets, reader.class_name_to_idx = np.array(numbers)[reader.targets], index
        reader.class_idx_to_name = dict(enumerate(class_names))
    else:
        if numbers != [*range(len(numbers))]:
            reader.samples = PackedSamples((file, numbers[target]) for file, target in reader.samples)
        reader.class_to_idx = index


def list_folders(path: str) -> Folders:
    """All folders of a split, a folder or a tar file, and how many files of each ending lie in them.

    Raises:
        UserError: A folder that cannot be read, a link that leads back, or one to nothing where classes are.
    """
    return _folders_in_tar(path) if os.path.isfile(path) else dict(_folders_below(path))


def check_folders(dataset: ImageDataset, folders: Folders, training: bool, mapped: bool) -> None:
    """Refuse folders of which timm would make other classes than one sees, or which it would pass over in silence.

    Refused in any split are hidden images; where no class map says which folders count, also images in no class folder,
    and those of one class in the folder of another. Of a split to train on, then, each folder must have images, since
    timm would drop the class and shift the others, and a name of its own, since it names classes after the last folder.
    Other folders inside a class folder, and hidden ones without images, are no concern. Images that are passed over for
    their endings, or since their class is not in the class map, are counted in the log.

    Args:
        dataset: timm's, of the folder or tar file of the split.
        folders: That lie there, see `list_folders`.
        training: Whether it is one to train on.
        mapped: Whether a class map says which folders count.

    Raises:
        UserError: Names the folder.
    """
    path = dataset.reader.root
    tar = os.path.isfile(path)
    class_folders = _tar_class_folders(dataset.reader) if tar else _class_folders(dataset.reader, path)
    _check_hidden(class_folders, (sample[0].path if tar else sample[0] for sample in dataset.reader.samples), path)
    warn_of_endings(path, sum(folders.values(), Counter()), 'or list all images (--train-list)')
    if mapped:
        _warn_of_unmapped(folders, class_folders, path)
        return
    _check_names(class_folders, path, training)
    if training:
        _check_no_folder_is_empty(sorted(folders), class_folders, path)


def _warn_of_unmapped(folders: Folders, class_folders: set[PurePosixPath], path: str) -> None:
    read = get_img_extensions(as_set=True)
    not_mapped = {
        folder: count for folder, endings in folders.items()
        if folder not in class_folders and (count := sum(endings[ending] for ending in read))}
    if not_mapped:
        names = first_few([f"'{folder}'" for folder in sorted(not_mapped)])
        _logger.warning(
            f"'{path}' has {sum(not_mapped.values()):,} images in folders that the class map does not name, which are "
            f'left out: {names}')


def _check_no_folder_is_empty(folders: list[PurePosixPath], class_folders: set[PurePosixPath], path: str) -> None:
    class_names = {folder.name for folder in class_folders}
    above_class = {parent for folder in class_folders for parent in folder.parents}
    for folder in folders:
        hidden = any(part.startswith(('.', '__')) for part in folder.parts)
        in_class = any(parent in class_folders for parent in folder.parents)
        if not (folder.name in class_names or folder in above_class or in_class or hidden):
            extensions = ' '.join(get_img_extensions())
            raise UserError(f"class '{folder}' in '{path}' has no image ({extensions}): add some, or remove the folder")


def warn_of_endings(path: str, endings: Mapping[str, int], else_do: str) -> None:
    """Log a warning if there are images among files that are passed over for their endings.

    Args:
        path: Where they lie.
        endings: How many files there are of each ending, in small letters.
        else_do: What else than converting them can be done.
    """
    others = {*_OTHER_ENDINGS} - get_img_extensions(as_set=True)
    if found := ', '.join(f'{endings[ending]:,} {ending}' for ending in sorted(others) if endings.get(ending)):
        _logger.warning(
            f"'{path}' has images that are not read for their endings ({found}); those that are have "
            f"{' '.join(get_img_extensions())}: convert them, {else_do}")


def _check_names(class_folders: set[PurePosixPath], path: str, training: bool) -> None:
    if PurePosixPath('.') in class_folders:
        raise UserError(f"there are images in '{path}' itself; every image must lie in the folder of its class")
    by_name: dict[str, PurePosixPath] = {}
    alike: dict[str, str] = {}
    lists = '--train-list' if training else '--train-list and --val-list'
    for folder in sorted(class_folders):
        if training and (other := by_name.setdefault(folder.name, folder)) != folder:
            raise UserError(
                f"'{other}' and '{folder}' in '{path}' would be one class, as a class is named after the last folder: "
                f'rename them, or list the images ({lists})')
        if training and (like := alike.setdefault(folder.name.casefold(), folder.name)) != folder.name:
            _logger.warning(f"'{path}' has the classes '{like}' and '{folder.name}', capitals apart: are they one?")
        if outer := class_folders.intersection(folder.parents):
            raise UserError(
                f"'{path}' has images in '{outer.pop()}' and in '{folder}' inside it, which would be another class: "
                f'move them, or list the images ({lists})')


def _check_hidden(class_folders: set[PurePosixPath], images: Iterable[str], path: str) -> None:
    """Previews and resource forks that some systems leave beside images."""
    for folder in sorted(class_folders):
        if any(part.startswith('.') or part in _SYSTEM_FOLDERS for part in folder.parts):
            raise UserError(f"'{path}' has images in the hidden folder '{folder}', which is no class: remove it")
    if hidden := [image for image in images if os.path.basename(image).startswith('.')]:
        raise UserError(f"'{path}' has hidden images, which nobody sees: remove {first_few(hidden)}")


def check_members(dataset: ImageDataset, path: str) -> None:
    """Refuse a tar file with images whose names lead out of it: whoever unpacks it would write anywhere.

    Raises:
        UserError: Names the file and the image.
    """
    for image, _, inner_tar in dataset.reader.samples:
        for member in (image, *(() if inner_tar is None else (inner_tar,))):
            name = PurePosixPath(member.path)
            if name.is_absolute() or '..' in name.parts:
                raise UserError(f"'{path}' holds '{name}', which leads out of its folder; it is not read")


def _class_folders(reader, path: str) -> set[PurePosixPath]:
    """The folders that timm found images in."""
    return {_posix(os.path.relpath(folder, path)) for folder in {os.path.dirname(file) for file, _ in reader.samples}}


def _tar_class_folders(reader) -> set[PurePosixPath]:
    """The same inside a tar file; the images of a tar inside it lie where that one lies, in a folder of its name."""
    return {
        (PurePosixPath(inner_tar.path).with_suffix('') if inner_tar is not None else PurePosixPath())
        / PurePosixPath(image.path).parent
        for image, _, inner_tar in reader.samples}


def _folders_below(path: str) -> Iterator[tuple[PurePosixPath, Counter[str]]]:
    """All folders, and how many files of each ending lie in them."""
    for folder, below, files in os.walk(path, followlinks=True, onerror=unreadable):
        if folder == path and (lost := [name for name in files if not os.path.exists(os.path.join(path, name))]):
            raise UserError(
                f"the link '{os.path.join(path, lost[0])}' leads to nothing, where a class may have been: mend it")
        if back := [name for name in below if leads_back(os.path.join(folder, name))]:
            raise UserError(
                f"the link '{os.path.join(folder, back[0])}' leads back to a folder that it lies in, whose images "
                'would come again and again: remove it')
        yield _posix(os.path.relpath(folder, path)), count_endings(files)


def unreadable(error: OSError) -> None:
    """For `os.walk`, which passes folders over that it cannot read."""
    raise UserError(f"cannot read the folder '{error.filename}' ({error.strerror})") from error


def count_endings(files: Iterable[str]) -> Counter[str]:
    """How many files there are of each ending, in small letters; hidden ones are no data to anyone."""
    return Counter(os.path.splitext(file)[1].lower() for file in files if not file.startswith('.'))


def leads_back(folder: str) -> bool:
    """Whether it is a link to a folder that it lies in, or was come to through: its images would come without end."""
    if not os.path.islink(folder):
        return False
    above = {os.path.realpath(parent) for parent in Path(os.path.abspath(folder)).parents}
    lies_in = map(str, Path(os.path.realpath(os.path.dirname(folder)), '_').parents)
    return os.path.realpath(folder) in above.union(lies_in)


def _folders_in_tar(path: str) -> dict[PurePosixPath, Counter[str]]:
    folders, links = defaultdict[PurePosixPath, Counter[str]](Counter), 0
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if member.isdir():
                folders[name]  # is there now, if without files
            elif member.isfile():
                folders[name.parent] += count_endings([name.name])
            else:
                links += name.name.lower().endswith(tuple(get_img_extensions()))
    if links:
        _logger.warning(
            f"'{path}' has {links:,} images that are links, which are passed over: pack what they lead to (with GNU "
            'tar, --dereference --hard-dereference)')
    return folders


def _posix(path: str) -> PurePosixPath:
    return PurePosixPath(path.replace(os.sep, '/'))
