"""Images named one by one: the list files that long-tailed sets are published as, and a timm reader over them."""
import codecs
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from timm.data.readers.reader import Reader

from ..errors import UserError, reason, visible

_LONGEST_LABEL = 7  # digits; ten million classes are a mistake
_MOST_EMPTY = 100_000  # classes that are named one by one, if only to say that they are empty


class PackedPaths(Sequence):
    """Paths in one piece of memory, `[N]`.

    A million strings take twice as much, and every loader worker ends up with a copy of its own: reading a Python
    object writes to the memory it shares.
    """

    def __init__(self):
        self._text, self._ends = bytearray(), array('q', [0])

    def append(self, path: bytes) -> None:
        self._text += path
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]  # counts from the end, and refuses what is outside
        return os.fsdecode(bytes(self._text[self._ends[index]:self._ends[index + 1]]))

    def __iter__(self) -> Iterator[str]:
        for start, end in pairwise(self._ends):
            yield os.fsdecode(bytes(self._text[start:end]))


class PackedSamples(Sequence):
    """Pairs of a path and a class index, as timm's reader of folders keeps them in a list, in two pieces of memory.

    Args:
        samples: `[N]`.
    """

    def __init__(self, samples: Iterable[tuple[str, int]]):
        self._paths, targets = PackedPaths(), array('q')
        for path, target in samples:
            self._paths.append(os.fsencode(path))
            targets.append(target)
        self._targets = np.array(targets, np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self._paths[index], int(self._targets[index])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return zip(self._paths, self._targets.tolist(), strict=True)


class ImageList(NamedTuple):
    """What a list file holds.

    Attributes:
        paths: As they stand there, `[N]`.
        targets: Class index of each, int64 `[N]`.
        class_names: By class index, `[C]`; the indices themselves where nothing tells.
    """
    paths: PackedPaths
    targets: np.ndarray
    class_names: list[str]


def read_list(path: str | os.PathLike, class_names: Sequence[str] | None = None) -> ImageList:
    """Read a list file: on each line the path of an image, a blank, and the index of its class.

    The form of the published lists of ImageNet-LT, Places-LT and iNaturalist 2018. A path may contain blanks; empty
    lines count for nothing. The images themselves are not looked at.

    Args:
        path: The file.
        class_names: By class index, `[C]`; by default, where the images of every class lie in a directory of their
            own, its name (or, where two of these are alike, as much of its path as tells all apart).

    Raises:
        UserError: No such file, nothing in it, or a line of another form (its number is given) or with a class that
            has no name.
    """
    paths, targets = PackedPaths(), array('q')
    try:
        with open(path, 'rb') as f:
            for number, line in enumerate(f, 1):
                entry = line.removeprefix(codecs.BOM_UTF8).rsplit(None, 1)
                if len(entry) == 2 and entry[1].isdigit() and len(entry[1]) <= _LONGEST_LABEL \
                        and not entry[0].endswith(b','):
                    paths.append(entry[0])
                    targets.append(int(entry[1]))
                elif entry:
                    hint = '; between them is a blank, and no comma' if b',' in line else ''
                    raise UserError(
                        f"'{path}', line {number}: expected the path of an image and the index of its class, got "
                        f"'{visible(line.decode(errors='replace').strip(), 60)}'{hint}")
    except (OSError, ValueError) as e:  # ValueError: a path that cannot be one
        if isinstance(e, UserError):
            raise
        raise UserError(f"cannot read the list '{path}': {reason(e)}") from e
    if not paths:
        raise UserError(f"the list '{path}' names no image")
    targets = np.array(targets, np.int64)
    largest = int(targets.max())
    if class_names is None and largest >= _MOST_EMPTY and largest >= len(targets):
        raise UserError(
            f"'{path}': image '{paths[int(targets.argmax())]}' is of class {largest}, and {len(targets)} images cannot "
            'be of so many classes')
    if class_names is None:
        class_names = directory_names(paths, targets) or [str(c) for c in range(targets.max() + 1)]
    elif targets.max() >= len(class_names):
        at = int((targets >= len(class_names)).argmax())
        raise UserError(
            f"'{path}': image '{paths[at]}' is of class {targets[at]}, but there are {len(class_names)} classes "
            f'(0 to {len(class_names) - 1})')
    return ImageList(paths, targets, list(class_names))


def class_directories(paths: Sequence[str], targets: np.ndarray) -> dict[int, str]:
    """The directory of the images of each class that has one, and to itself."""
    found = {(target, path.rpartition('/')[0]) for path, target in zip(paths, targets.tolist(), strict=True)}
    classes, directories = Counter(target for target, _ in found), Counter(directory for _, directory in found)
    return {
        target: directory for target, directory in found if classes[target] == 1 and directories[directory] == 1}


def directory_names(paths: Sequence[str], targets: np.ndarray) -> list[str] | None:
    """The directory of every class's images by class index; None unless each class has one, and to itself."""
    directories = class_directories(paths, targets)
    if len(directories) <= targets.max():
        return None
    parts = [directories[c].split('/') for c in range(len(directories))]
    by_depth = (['/'.join(part[-depth:]) for part in parts] for depth in range(1, max(map(len, parts)) + 1))
    names = next(names for names in by_depth if len(set(names)) == len(names))
    return names if all(names) else None


class ReaderImageList(Reader):
    """timm reader of images that are named one by one; for `timm.data.ImageDataset(root, reader=...)`.

    Args:
        root: What the paths are relative to.
        paths: `[N]`.
        targets: Class index of each, int64 `[N]`.
        class_names: By class index, `[C]`.
    """

    def __init__(self, root: str | os.PathLike, paths: Sequence[str], targets: np.ndarray, class_names: Sequence[str]):
        super().__init__()
        self.root = os.fspath(root)
        self.paths, self.targets, self.class_names = paths, targets, list(class_names)

    def __getitem__(self, index: int):
        return open(self._filename(index, absolute=True), 'rb'), int(self.targets[index])

    def __len__(self) -> int:
        return len(self.paths)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """The path of an image, relative to the root unless asked otherwise, however the list spells it."""
        path = self.paths[index]
        if absolute:
            return os.path.join(self.root, path)
        path = os.path.normpath(path)
        return os.path.basename(path) if basename else path.removeprefix(os.path.join(os.path.abspath(self.root), ''))
