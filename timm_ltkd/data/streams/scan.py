"""A stream that is looked through once, and a stream without some of its images."""
import copy
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import IterableDataset

from ...errors import UserError, last_line
from .dataset import StreamDataset, loader_worker


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
    others = copy.copy(stream)
    others.left_out = left_out
    others.class_counts = stream.class_counts - np.bincount(targets, minlength=len(stream.class_counts))
    if stream.shard_lengths is not None:
        others.shard_lengths = stream.shard_lengths - np.bincount(shards, minlength=len(stream.shard_lengths))
    return others
