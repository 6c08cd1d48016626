"""A stream that is looked through once, and a stream without some of its images."""
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import IterableDataset

from ...errors import UserError, last_line
from .counts import StreamCounts
from .dataset import StreamDataset, loader_worker
from .shards import Encoded, Shards


class StreamScan(IterableDataset):
    """For each image of this process's shards what is wrong with it, or None.

    Args:
        stream: Without a transform.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, stream: StreamDataset, *, rank: int = 0, world_size: int = 1):
        self.stream, self.rank, self.world_size = stream, rank, world_size

    def __iter__(self) -> Iterator[tuple[tuple[int, int, int], str, str] | None]:
        """A finding holds (shard, position in it, class index), a name, and the reason."""
        worker, workers = loader_worker()
        part, parts = self.rank * workers + worker, self.world_size * workers
        for shard in range(part, len(self.stream.shards), parts):
            for sample in self.stream.shard(shard):
                try:
                    self.stream.load(sample)
                except UserError as e:
                    name = f'image {sample.index} of shard {self.stream.shard_name(shard)}'
                    yield (shard, sample.index, sample.target), name, last_line(e)
                else:
                    yield None


class _OtherShards:
    """Shards without some of their images; see `Shards`."""

    def __init__(self, shards: Shards, left_out: dict[int, set[int]]):
        self.name, self.split, self.files, self.stamps = shards.name, shards.split, shards.files, shards.stamps
        self.labelled_by, self.folder, self.class_names = shards.labelled_by, shards.folder, shards.class_names
        self.lengths = None  # those that the stream knows of itself count all images
        self._shards, self._left_out = shards, left_out

    def __len__(self) -> int:
        return len(self._shards)

    def read(self, shard: int) -> Iterator[tuple[Encoded, int]]:
        yield from self._kept(shard, self._shards.read(shard))

    def labels(self, shard: int) -> Iterator[int]:
        yield from self._kept(shard, self._shards.labels(shard))

    def _kept(self, shard: int, items: Iterator) -> Iterator:
        left_out = self._left_out.get(shard, ())
        return (item for index, item in enumerate(items) if index not in left_out)


def without_images(stream: StreamDataset, places: Sequence[tuple[int, ...]]) -> StreamDataset:
    """The stream without some of its images.

    Args:
        stream: As it is.
        places: (shard, position in it, class index) of each image that is left out.
    """
    shards, indices, targets = np.array(places, np.int64).T
    left_out: dict[int, set[int]] = {}
    for shard, index in zip(shards.tolist(), indices.tolist(), strict=True):
        left_out.setdefault(shard, set()).add(index)
    classes = stream.class_counts - np.bincount(targets, minlength=len(stream.class_counts))
    lengths = stream.shard_lengths
    if lengths is not None:
        lengths = lengths - np.bincount(shards, minlength=len(lengths))
    return StreamDataset(
        _OtherShards(stream.shards, left_out), StreamCounts(classes, lengths), class_names=stream.class_names,
        transform=stream.transform, image_mode=stream.image_mode, kept_in=stream.kept_in)
