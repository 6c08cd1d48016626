"""What a stream is made of: shards that are read from their start, images undecoded; and how a label is understood."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Protocol

from ...errors import UserError, last_line
from ..labels import MOST_CLASSES, too_large

Encoded = bytes | str  # an image file, or where it lies; empty if there is none


class Shards(Protocol):
    """A split of a stream.

    Attributes:
        name: As the user gave it.
        split: As the user gave it.
        files: Names without their folder, for messages and to tell one data set from another.
        stamps: What changes when a file does, as far as one can tell without reading it.
        labelled_by: What else the class indices depend on.
        folder: Where the files lie, if on this machine.
        class_names: By class index, if the stream knows them.
        lengths: Images of each shard, if the stream says so itself.
    """
    name: str
    split: str
    files: Sequence[str]
    stamps: Sequence
    labelled_by: Sequence
    folder: Path | None
    class_names: list[str] | None
    lengths: Sequence[int] | None

    def __len__(self) -> int:
        """Number of shards."""

    def read(self, shard: int) -> Iterator[tuple[Encoded, int]]:
        """Images and class indices of a shard, always in the same order."""

    def labels(self, shard: int) -> Iterator[int]:
        """The class indices alone."""


class ClassIndex:
    """From a label as it is stored to a class index.

    Args:
        class_map: Class index by label or by the label's name; None takes labels as they are.
        names: Of the stored labels, by their number, if there are any.
        what: Which data set, for messages.
    """

    def __init__(self, class_map: dict | None, names: Sequence[str] | None, what: str):
        self.class_map, self.names, self.what = class_map, names, what

    def __call__(self, label) -> int:
        """The class index of one label.

        Raises:
            UserError: The class map doesn't have it, or it is no class index.
        """
        numbered = isinstance(label, Integral) and not isinstance(label, bool)
        if self.class_map is None:
            if not numbered:
                raise UserError(
                    f'{self.what} needs one class index per image, but has the label {label!r}; a class map gives '
                    'class names an index')
            if label < 0:
                raise UserError(f'{self.what} has images without a class: their label is {label}')
            if label >= MOST_CLASSES:
                raise too_large(self.what, label)
            return int(label)
        named = numbered and self.names is not None and 0 <= label < len(self.names)
        for key in (label, self.names[label]) if named else (label,):
            if isinstance(key, str | Integral) and key in self.class_map:
                return int(self.class_map[key])
        raise UserError(f'{self.what}: the class map has no entry for the label {label!r}')


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line about it."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # file systems, archives and formats of all kinds raise their own
        raise UserError(f'cannot read {what}: {last_line(e)}') from e
