"""The Accelerator of a run, and how its processes agree."""
import logging
import os
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from ..errors import UserError, nearest

_logger = logging.getLogger(__name__)


def create_accelerator(grad_accum_steps: int = 1, log_with: list[str] | None = None) -> Accelerator:
    """An Accelerator as `accelerate launch` (or its environment) configures it: precision, processes, devices.

    Batch-norm buffers are not broadcast at each step; the engine averages them before evaluation instead.

    Raises:
        UserError: fp16 without an accelerator (Accelerate would quietly run float32), or an unknown tracker or one
            that is not installed (Accelerate would quietly leave it out).
    """
    available = {str(getattr(tracker, 'value', tracker)) for tracker in get_available_trackers()}
    for name in log_with or ():
        if name not in LOGGER_TYPE_TO_CLASS and name != 'all':
            raise UserError(f"--log-with: unknown tracker '{name}'{nearest(name, map(str, LOGGER_TYPE_TO_CLASS))}")
        if name not in available and name != 'all':
            raise UserError(f"--log-with: the tracker '{name}' is not installed; pip install it, or leave it out")
    accelerator = Accelerator(
        gradient_accumulation_steps=grad_accum_steps,
        log_with=log_with or None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    wanted = os.environ.get('ACCELERATE_MIXED_PRECISION', accelerator.mixed_precision).lower()
    if wanted == 'fp16' and accelerator.device.type == 'cpu':
        raise UserError('fp16 needs a GPU; on a CPU use bf16 (accelerate launch --mixed_precision bf16) or no')
    return accelerator


def on_main(accelerator: Accelerator, function: Callable[[], Any]) -> Any:
    """Call on the main process only and give its result, or raise its `UserError`, on every process."""
    answer = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = function()
        except UserError as e:
            answer[1] = str(e)
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    return answer[0]


def set_up_logging(main_process: bool) -> None:
    """Messages of this package to stderr, from the main process; the others only speak of errors."""
    logger = logging.getLogger('timm_ltkd')
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter('%(message)s'))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if main_process else logging.ERROR)
