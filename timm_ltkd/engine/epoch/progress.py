"""How far an epoch is: a bar on a terminal, and a line a minute where there is none; and what else takes long."""
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar('T')
_SILENCE = 60.  # seconds without a line where no bar is shown
_SLOW = 10.  # seconds
_logger = logging.getLogger(__name__)


class Progress(AbstractContextManager):
    """Tells of an epoch's batches; to be left before anything else is told.

    Args:
        epoch: From 0.
        epochs: How many there will be.
        batches: Of the epoch.
        shown: Whether this process shows a bar; on a terminal only, and where several runs are trained at once none.
    """

    def __init__(self, epoch: int, epochs: int, batches: int, shown: bool):
        self.name, self.batches = f'epoch {epoch + 1}/{epochs}', batches
        shown = shown and threading.current_thread() is threading.main_thread()
        self.bar = tqdm(total=batches, desc=self.name, leave=False, disable=None if shown else True)
        self.start = self.told = time.perf_counter()

    def __exit__(self, *_) -> None:
        self.bar.close()

    @property
    def seconds(self) -> float:
        """Since the epoch began."""
        return time.perf_counter() - self.start

    def advance(self) -> None:
        """A batch more is done."""
        self.bar.update()

    def tell(self, batches: int, images: int, loss: float, lr: float) -> None:
        """What is known after so many batches, of so many images."""
        rate = images / self.seconds
        self.bar.set_postfix(loss=f'{loss:.4f}', lr=f'{lr:.3g}', img_s=f'{rate:.0f}')
        now = time.perf_counter()
        if self.bar.disable and now - self.told > _SILENCE:
            self.told = now
            _logger.info(
                f'{self.name}, batch {batches}/{self.batches}: loss {loss:.4f}, lr {lr:.3g}, {rate:.0f} img/s')


def told(batches: Iterable[T], what: str) -> Iterator[T]:
    """The batches, while the log tells once a minute how many there were.

    Args:
        batches: Of a pass over images.
        what: What the log calls it.
    """
    last = time.perf_counter()
    for count, batch in enumerate(batches, start=1):
        yield batch
        if (now := time.perf_counter()) - last > _SILENCE:
            last = now
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
