"""Which images of a stream go to which process and loader worker: to train on, shuffled, and to evaluate, once each."""
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from ..sampler import epoch_batch_sizes
from ..seeded import derive_seed, seeded_call
from .dataset import StreamDataset, loader_worker
from .shuffle import SHUFFLED_AT_ONCE, shuffled


class TrainStream(IterableDataset):
    """An epoch of a stream for one of `world_size` processes: shuffled, augmented `(input, target)` pairs.

    Shards come in an order that depends on (seed, epoch) only. Each loader worker of each process reads a piece of
    that order of its own; where there are fewer shards than workers, all of them read all shards and each takes every
    so many images. A worker shuffles what it reads through a buffer. An image's augmentation depends on
    (seed, epoch, image) only, but which images share a batch depends on the number of workers and processes as well.

    With known shard lengths an epoch shows each image once, but for the repeats that fill the last batch. With guessed
    ones (class counts were given, so that nobody counted) some are shown twice and as many not at all, others in
    another epoch.

    Batches are sized by `epoch_batch_sizes` without `share_end` (a loader of a stream knows one size), the
    same on every process; give the loader the same batch size.

    Args:
        stream: With its transform.
        batch_size: Images per process and batch.
        seed: Any integer.
        rank: Of this process.
        world_size: Number of processes.

    Attributes:
        repeats: Images that an epoch shows once more to fill its last batch.
    """

    def __init__(self, stream: StreamDataset, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1):
        self.stream, self.seed, self.rank, self.world_size = stream, seed, rank, world_size
        self._batch_sizes = epoch_batch_sizes(len(stream), batch_size, world_size, share_end=False)
        self.repeats = sum(self._batch_sizes) * world_size - len(stream)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # reaches workers that persist

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self._epoch.fill_(epoch)

    def batch_sizes(self) -> list[int]:
        """Images of each batch of an epoch, the same on every process."""
        return self._batch_sizes

    def __len__(self) -> int:
        """Images of an epoch for this process."""
        return sum(self._batch_sizes)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        epoch, worker = int(self._epoch), loader_worker()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(len(self.stream.shards), generator=generator).numpy()
        samples = self.stream.read(order, *self._piece(*worker))
        draws = random.Random(derive_seed(self.seed, epoch, self.rank, *worker))
        for sample in shuffled(samples, SHUFFLED_AT_ONCE, draws):
            key = (self.seed, epoch, sample.shard, sample.index, sample.again)
            yield seeded_call(lambda sample=sample: self.stream.load(sample), *key)

    def _piece(self, worker: int, workers: int) -> tuple[int, Iterator[int]]:
        """Where a worker's piece of the order starts, and which positions from there on it has; the loader takes a
        batch from each worker in turn."""
        if len(self.stream.shards) < workers * self.world_size:
            return 0, self._dealt(worker, workers)
        images = [sum(self._batch_sizes[each::workers]) for each in range(workers)]
        start = self.rank * sum(images) + sum(images[:worker])
        return start % len(self.stream), iter(range(images[worker]))

    def _dealt(self, worker: int, workers: int) -> Iterator[int]:
        """The positions of a worker's batches, of which this process takes one in `world_size`."""
        start = 0
        for step, size in enumerate(self._batch_sizes):
            end = start + size * self.world_size
            if step % workers == worker:
                yield from range(start + self.rank, end, self.world_size)
            start = end


class EvalStream(IterableDataset):
    """This process's share of a stream, in order: `(input, target, position in the stream)`, each image exactly once
    over all processes and loader workers.

    Args:
        stream: With its transform.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, stream: StreamDataset, *, rank: int = 0, world_size: int = 1):
        self.stream, self.rank, self.world_size = stream, rank, world_size

    def __len__(self) -> int:
        """Images of the stream, over all processes."""
        return len(self.stream)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        worker, workers = loader_worker()
        yield from self.stream.part(self.rank * workers + worker, self.world_size * workers)
