"""What takes long is told: by a bar on a terminal, elsewhere by a line a minute in the log."""
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar('T')
_SILENCE = 60.  # seconds without a line where no bar is shown
_SLOW = 10.  # seconds
_logger = logging.getLogger(__name__)


class Silence:
    """How long nothing was told."""

    def __init__(self):
        self._since = time.perf_counter()

    def lasts(self) -> bool:
        """Whether it is time for a line."""
        return time.perf_counter() - self._since > _SILENCE

    def is_over(self) -> bool:
        """Whether it is time for a line; then it begins anew."""
        if not self.lasts():
            return False
        self._since = time.perf_counter()
        return True


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
        self._done, self._silence = 0, Silence()

    def update(self, n: float | None = 1) -> bool | None:
        self._done += n or 0
        if self._tells and self._silence.is_over():
            _logger.info(f'{self._what}: {self._done:,} {self._of}')
        return super().update(n)


def told(batches: Iterable[T], what: str) -> Iterator[T]:
    """The batches, while the log tells once a minute how many there were.

    Args:
        batches: Of a pass over images.
        what: What the log calls it.
    """
    silence = Silence()
    for count, batch in enumerate(batches, start=1):
        yield batch
        if silence.is_over():
            _logger.info(f'{what}: batch {count}{f"/{len(batches)}" if hasattr(batches, "__len__") else ""}')


@contextmanager
def told_if_slow(what: str) -> Iterator[None]:
    """Inside, the log tells what it is that takes so long, once it does."""
    timer = threading.Timer(_SLOW, _logger.info, [what])
    timer.name, timer.daemon = threading.current_thread().name, True  # the log tells which of several runs speaks
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # or loader workers might be forked off while it ends
