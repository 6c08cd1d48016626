"""A stream as a data set: how many images it has of each class, and how they are read."""
import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ...errors import UserError
from ..reading import decode_image
from .counts import StreamCounts
from .shards import Encoded, Shards, reading


class StreamSample(NamedTuple):
    """An image as it is stored, its class index, where it lies, and how often the stream was read to its end before."""
    image: Encoded
    target: int
    shard: int
    index: int
    again: int


class StreamDataset(IterableDataset):
    """A split that is read from one end to the other; iterating over it gives `(image, target)`, in order.

    In a loader's worker processes each gets its own part, so that a plain `DataLoader` sees every image once.

    Args:
        shards: What to read.
        counts: What is in it.
        class_names: By class index, [C].
        transform: From an image to the network's input, or None.
        image_mode: Pillow's mode that images are converted to; None leaves them.
        kept_in: The file of the counts, for messages.

    Attributes:
        shards: What is read.
        class_counts: Images of each class, int64 [C].
        shard_lengths: Images of each shard, int64 [S]; None where only the classes were counted.
        classes_at_once: As `StreamCounts` has it.
        class_names: [C].
        transform: May be set.
        left_out: Positions in each shard of images that are passed over.
    """

    def __init__(
            self,
            shards: Shards,
            counts: StreamCounts,
            *,
            class_names: Sequence[str],
            transform: Callable | None = None,
            image_mode: str | None = 'RGB',
            kept_in: Path | None = None,
    ):
        self.shards = shards
        self.class_counts = _padded(counts.classes, len(class_names))
        self.shard_lengths = counts.shards
        self.classes_at_once = counts.at_once
        self.class_names = list(class_names)
        self.transform = transform
        self.image_mode = image_mode
        self.kept_in = kept_in
        self.left_out = {}

    def __len__(self) -> int:
        return int(self.class_counts.sum())

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        for image, target, _ in self.part(*loader_worker()):
            yield image, target

    def with_transform(self, transform: Callable | None) -> 'StreamDataset':
        """The same images under another transform."""
        view = copy.copy(self)
        view.transform = transform
        return view

    def with_class_names(self, class_names: Sequence[str]) -> 'StreamDataset':
        """The same images in a set that may have more classes, which come last."""
        view = copy.copy(self)
        view.class_names = list(class_names)
        view.class_counts = _padded(self.class_counts, len(class_names))
        return view

    def read(self, order: np.ndarray, start: int, offsets: Iterable[int]) -> Iterator[StreamSample]:
        """Some of the samples of the shards in this order, undecoded; after the last shard comes the first again.

        Where the shards' lengths are not known, they are taken to be equal, and the start is only about right.

        Args:
            order: Shards, int64 [S].
            start: Position in that order.
            offsets: Ascending, counted from `start`.

        Raises:
            UserError: The stream does not have as many images as were counted; a label that has no class.
        """
        lengths = self.shard_lengths
        ends = np.arange(1, len(order) + 1) * len(self) // len(order) if lengths is None else lengths[order].cumsum()
        place = int(np.searchsorted(ends, start, side='right'))
        before = int(ends[place - 1]) if place else 0
        samples = enumerate(islice(self._from(order, place), start - before, None))
        for wanted in offsets:
            yield next(sample for offset, sample in samples if offset == wanted)

    def part(self, part: int, parts: int) -> Iterator[tuple[Any, int, int]]:
        """One of several parts of the stream, in order: `(input, target, position in the stream)`.

        Parts are pieces of the stream, or every so many images where there are fewer shards than parts.
        """
        total, shards = len(self), len(self.shards)
        if self.shard_lengths is not None and shards >= parts:
            positions = range(total * part // parts, total * (part + 1) // parts)
        else:
            positions = range(part, total, parts)
        if not positions:
            return
        start = positions[0] if positions.step == 1 else 0
        samples = self.read(np.arange(shards), start, (position - start for position in positions))
        for position, sample in zip(positions, samples, strict=True):
            yield *self.load(sample), position

    def load(self, sample: StreamSample) -> tuple[Any, int]:
        """The image decoded and transformed, and its class index.

        Raises:
            UserError: It cannot be decoded.
        """
        with reading(f'image {sample.index} of shard {self.shard_name(sample.shard)}'):
            if not sample.image:
                raise OSError('it holds no image')
            with _opened(sample.image) as file:
                image = decode_image(file, self.image_mode)
        return image if self.transform is None else self.transform(image), sample.target

    def _from(self, order: np.ndarray, place: int) -> Iterator[StreamSample]:
        """All samples from the start of a shard on, without end."""
        for again in count(place // len(order)):
            samples = self._turn(order, place % len(order), again)
            if self.shard_lengths is None and place % len(order) == 0:  # then at least their sum can be checked
                samples = _exactly(samples, len(self), self._miscounted)
            yield from samples
            place = 0

    def _turn(self, order: np.ndarray, place: int, again: int) -> Iterator[StreamSample]:
        """All samples from the start of a shard to the end of the last one."""
        for shard in order[place:].tolist():
            samples = self.shard(shard, again)
            if self.shard_lengths is not None:
                samples = _exactly(samples, int(self.shard_lengths[shard]), lambda s=shard: self._miscounted(s))
            yield from samples

    def shard(self, shard: int, again: int = 0) -> Iterator[StreamSample]:
        """All samples of a shard, undecoded.

        Args:
            shard: Its number.
            again: How often the stream was read to its end before.

        Raises:
            UserError: A label that has no class.
        """
        left_out = self.left_out.get(shard, ())
        for index, (image, target) in enumerate(self.shards.read(shard)):
            if index in left_out:
                continue
            if target >= len(self.class_names):
                raise UserError(
                    f"label {target} in shard {self.shard_name(shard)} has no class name: there are "
                    f'{len(self.class_names)} classes')
            yield StreamSample(image, target, shard, index, again)

    def _miscounted(self, shard: int | None = None) -> UserError:
        if shard is None:
            return UserError(f"'{self.shards.name}' does not have the {len(self)} images of the class counts given")
        hint = f'remove {self.kept_in} to count anew' if self.kept_in else 'correct the lengths in its _info.json'
        return UserError(
            f"shard {self.shard_name(shard)} does not have the {self.shard_lengths[shard]} images that were counted; "
            f'{hint}')

    def shard_name(self, shard: int) -> str:
        """What to call a shard in messages."""
        files = self.shards.files
        return f"'{files[shard]}'" if len(files) == len(self.shards) else f"{shard} of '{self.shards.name}'"


def _exactly(samples: Iterator[StreamSample], number: int, error: Callable[[], UserError]) -> Iterator[StreamSample]:
    """The samples, if there are so many; the last of them only comes when it is known to be the last."""
    seen, ahead = 0, None
    for sample in samples:
        if seen == number:
            break
        if ahead is not None:
            yield ahead
        seen, ahead = seen + 1, sample
    else:
        if seen == number:
            if ahead is not None:
                yield ahead
            return
    raise error()


def _opened(image: Encoded) -> BinaryIO:
    if isinstance(image, bytes):
        return BytesIO(image)
    if os.path.exists(image):
        return open(image, 'rb')
    import fsspec  # which `datasets` needs, and nobody else here
    return fsspec.open(image, 'rb').open()


def loader_worker() -> tuple[int, int]:
    """The number of this loader process, and how many there are."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def _padded(counts: np.ndarray, num_classes: int) -> np.ndarray:
    return np.pad(counts, (0, num_classes - len(counts)))
