"""What every job of the scripts begins and ends with."""
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from accelerate import Accelerator

from .launch import create_accelerator, set_up_logging
from .peers import share_fate

_logger = logging.getLogger(__name__)


@contextmanager
def job(log_with: Sequence[str] = (), idle: str = '') -> Iterator[Accelerator]:
    """Inside, the processes of a job share their fate, and the first of them speaks; after it they have parted.

    Args:
        log_with: Trackers that the job is to have.
        idle: Options that change nothing, to be told.

    Raises:
        UserError: As `create_accelerator` and `share_fate`.
    """
    accelerator = create_accelerator(log_with)
    set_up_logging(accelerator.is_main_process)
    if idle:
        _logger.warning(f'without effect: {idle}')
    with share_fate(accelerator):
        yield accelerator
        accelerator.end_training()
