"""How far an epoch is: a bar on a terminal, and a line a minute where there is none."""
import logging
import threading
import time
from contextlib import AbstractContextManager

from tqdm import tqdm

from ...progress import Silence

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
        self.start, self.silence = time.perf_counter(), Silence()

    def __exit__(self, *_) -> None:
        self.bar.close()

    @property
    def seconds(self) -> float:
        """Since the epoch began."""
        return time.perf_counter() - self.start

    def advance(self) -> None:
        """A batch more is done."""
        self.bar.update()

    def is_due(self) -> bool:
        """Whether a line is."""
        return self.bar.disable and self.silence.lasts()

    def tell(self, batches: int, images: int, loss: float, lr: float) -> None:
        """What is known after so many batches, of so many images."""
        rate = images / self.seconds
        self.bar.set_postfix(loss=f'{loss:.4f}', lr=f'{lr:.3g}', img_s=f'{rate:.0f}')
        if self.bar.disable and self.silence.is_over():
            _logger.info(
                f'{self.name}, batch {batches}/{self.batches}: loss {loss:.4f}, lr {lr:.3g}, {rate:.0f} img/s')
