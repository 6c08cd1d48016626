"""The worker processes of a loader: how they work, and how they end."""
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

_logger = logging.getLogger(__name__)
_SILENCE = 60.  # seconds without a line where no bar is shown


def process_options(workers: int, pin_memory: bool = False) -> dict[str, Any]:
    """How a loader's processes are to work, as keywords of `DataLoader`."""
    return dict(
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else every epoch draws the workers' base seed from the global generator
    )


class Bar(tqdm):
    """A progress bar on a terminal; elsewhere the log tells once a minute.

    Args:
        what: Beside the bar.
        total: Of `unit` there are.
        progress: Whether anything is told.
    """

    def __init__(self, what: str, total: int, unit: str = 'images', progress: bool = True):
        super().__init__(total=total, desc=what, unit=f' {unit}', leave=False, disable=None if progress else True)
        self._what, self._of, self._tells = what, f'of {total:,} {unit}', progress and self.disable
        self._done, self._told = 0, time.perf_counter()

    def update(self, n: float | None = 1) -> bool | None:
        self._done += n or 0
        if self._tells and (now := time.perf_counter()) - self._told > _SILENCE:
            self._told = now
            _logger.info(f'{self._what}: {self._done:,} {self._of}')
        return super().update(n)


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
