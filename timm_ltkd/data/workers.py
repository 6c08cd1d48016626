"""The worker processes of a loader: how they work, and how they end."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..progress import Bar


def process_options(workers: int, pin_memory: bool = False) -> dict[str, Any]:
    """How a loader's processes are to work, as keywords of `DataLoader`."""
    return dict(
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else every epoch draws the workers' base seed from the global generator
    )


@contextmanager
def read_once(loader: DataLoader, what: str, total: int, progress: bool) -> Iterator[Bar]:
    """A `Bar`, to be updated by images, while a loader is read; its workers end with it, however that goes.

    Args:
        loader: Used for nothing else.
        what, total, progress: As `Bar`.
    """
    bar = Bar(what, total, progress=progress)
    try:
        yield bar
    finally:
        bar.close()
        stop_workers(loader)


def stop_workers(loader: Any) -> None:
    """End the persistent worker processes of a loader; it starts new ones when it is used again.

    Left to the garbage collector, which may drop their queues first, each of them costs a wait of five seconds.

    Args:
        loader: A `DataLoader`; what stands for one has no workers.
    """
    if not isinstance(loader, DataLoader):
        return
    iterator, loader._iterator = loader._iterator, None
    if iterator is not None:
        iterator._shutdown_workers()
