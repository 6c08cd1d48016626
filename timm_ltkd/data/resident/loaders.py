"""Loaders of resident images: what stands where a `DataLoader` does."""
from collections.abc import Iterator

import torch

from ...devices import move
from ..sampler import EpochBatchSampler, ShardSampler
from ..seeded import derive_seed
from .images import ResidentImages
from .random_numbers import keys

_DRAWS = -2  # no image's index, so that these draws are nobody else's


class ResidentTrainLoader:
    """Shuffled, augmented batches of resident images; stands where the loader of `create_train_loader` does.

    What is drawn for an image depends on (seed, epoch, image, and how often it was shown before in the epoch) only:
    the distribution is that of the transform, the draws are others.

    Args:
        images: What to show.
        batch_sampler: Which of them, in which batch; with `stored_views` only so many views are made of each image.
        seed: Any integer.
    """

    def __init__(self, images: ResidentImages, batch_sampler: EpochBatchSampler, *, seed: int):
        self.images = images
        self.batch_sampler = batch_sampler
        self.seed = seed

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in self.showings():
            yield self.images.batch(rows), self.images.targets_of(rows)

    def showings(self) -> Iterator[torch.Tensor]:
        """What each batch of the epoch shows: `rows` int64 `[B, K]`, on the device that holds the images.

        `images.batch(rows)` and `images.targets_of(rows)` are the batch.
        """
        yield from self.images.place(self.rows()).split(self.batch_sampler.batch_sizes())

    def rows(self) -> torch.Tensor:
        """What this process shows in the epoch, batch after batch, int64 `[M, K]`, on the CPU."""
        shown = self.batch_sampler.shown()
        seed = derive_seed(self.seed, _DRAWS)
        return self.images.rows(shown.index, keys(seed, shown.epoch, shown.index, shown.again))


class ResidentEvalLoader:
    """This rank's share of resident images, each once over all ranks, in order; stands where the loader of
    `create_eval_loader` does.

    Args:
        images: What to show.
        batch_size: Per process.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, images: ResidentImages, *, batch_size: int, rank: int = 0, world_size: int = 1):
        self.dataset = self.images = images
        self.batch_size = batch_size
        self.index = torch.tensor(list(ShardSampler(len(images), rank, world_size)), dtype=torch.int64)

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for rows in self.showings():
            there = move(rows[:, 0], self.images.device)
            yield self.images.batch(rows), self.images.targets_of(rows), there

    def showings(self) -> Iterator[torch.Tensor]:
        """As that of `ResidentTrainLoader`: positions alone, int64 `[B, 1]`."""
        rows = self.images.place(self.index[:, None])  # decodes, which all processes do together
        if len(rows):
            yield from rows.split(self.batch_size)
