"""Several runs that differ in their seed, trained one after another, where they cannot be trained at once."""
import gc
import logging
from argparse import Namespace
from collections.abc import Callable, Mapping

from accelerate import Accelerator

from ...errors import UserError
from ..fit import Result
from ..processes.launch import finish_trackers
from .asked import SomeFailed

_logger = logging.getLogger(__name__)


def why_in_turn(args: Namespace, accelerator: Accelerator) -> str | None:
    """What keeps the runs of --seeds from threads of one process; None where nothing does.

    Args:
        args: Of one of them, with its loader chosen.
    """
    reasons = {
        f'there are {accelerator.num_processes} processes': accelerator.num_processes > 1,
        'loader workers are not forked off threads': args.loader == 'timm' and args.workers > 0,
        '--torchcompile': args.torchcompile is not None,
        '--grad-checkpointing sets the generators of all': args.grad_checkpointing,
        f'--log-with {" ".join(args.log_with)}': bool({*args.log_with} - {'tensorboard'}),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def fit_in_turn(
        runs: Mapping[str, Callable[[], Result]], accelerator: Accelerator, reason: str) -> dict[str, Result]:
    """Train one after another; their results by name.

    Args:
        runs: What trains each to the end, by what the log calls it.
        accelerator: Of all of them.
        reason: Why not at once, for the log.

    Raises:
        SomeFailed: A run failed; the others were trained to the end.
        UserError: A run of several processes failed, of which nobody knows whether they are all at the same point.
    """
    _logger.info(f'{len(runs)} seeds, one after another ({reason})')
    results, failures = {}, {}
    for name, run in runs.items():
        _logger.info(f'{name}:')
        try:
            results[name] = run()
        except UserError as e:
            if accelerator.num_processes > 1:
                raise
            finish_trackers(accelerator)
            _logger.error(f'{name}: {e}')
            failures[name] = UserError(str(e))  # e holds the frames of the run, and so all that it had on the device
        accelerator.free_memory()
        gc.collect()  # as after a teacher
    if failures:
        raise SomeFailed(results, failures)
    return results
