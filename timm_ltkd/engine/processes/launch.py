"""The Accelerator of a run, and how its processes agree."""
import logging
import os
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers, get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)

from ...errors import UserError, nearest, visible
from .memory import keep_freed_memory
from .peers import share_fate

_logger = logging.getLogger(__name__)
_DATA_PARALLEL = ('NO', 'MULTI_CPU', 'MULTI_GPU', 'MULTI_NPU', 'MULTI_MLU', 'MULTI_XPU')
_PATIENCE = timedelta(hours=6)  # our choice; the process group's own would be half an hour or less
PRECISIONS = ('no', 'bf16', 'fp16')


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

_cores_of_all: list[int] = []  # of each process that was launched, where there are several


def create_accelerator(log_with: Sequence[str] = ()) -> Accelerator:
    """An Accelerator as `accelerate launch` (or its environment) configures it: precision, processes, devices.

    Batch-norm buffers are not broadcast at each step; the engine averages them before evaluation instead. A process may
    wait for another for hours, which may download or decode; that one has died is told by `share_fate`.

    Raises:
        UserError: An unknown precision, or fp16 without a GPU (Accelerate would quietly run float32); an unknown
            tracker, or one that is not installed (Accelerate would quietly leave it out).
    """
    available = {str(getattr(tracker, 'value', tracker)) for tracker in get_available_trackers()}
    for name in log_with:
        if name not in LOGGER_TYPE_TO_CLASS and name != 'all':
            raise UserError(f"--log-with: unknown tracker '{name}'{nearest(name, map(str, LOGGER_TYPE_TO_CLASS))}")
        if name not in available and name != 'all':
            raise UserError(f"--log-with: the tracker '{name}' is not installed; pip install it, or leave it out")
    wanted = os.environ.get('ACCELERATE_MIXED_PRECISION', 'no').lower()
    if wanted not in PRECISIONS:
        raise UserError(f"unknown precision '{wanted}'{nearest(wanted, PRECISIONS)}")
    together_on_cpu = 'LOCAL_RANK' in os.environ and not torch.accelerator.is_available()
    accelerator = Accelerator(
        cpu=together_on_cpu,  # or newer versions leave each of several processes alone, to train the same as the others
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False), InitProcessGroupKwargs(timeout=_PATIENCE)])
    if 'LOCAL_RANK' in os.environ and accelerator.num_processes < int(os.environ.get('WORLD_SIZE') or 1):
        raise UserError(
            f'{os.environ["WORLD_SIZE"]} processes were launched and each would train alone: Accelerate cannot connect '
            f'them on {accelerator.device.type}; launch one, or set ACCELERATE_USE_CPU=true')
    if accelerator.device.type == 'cuda' and accelerator.device.index is not None:
        # ACCELERATE_TORCH_DEVICE names one without choosing it
        torch.cuda.set_device(accelerator.device)
    if accelerator.device.type == 'cuda':
        torch.backends.cudnn.benchmark = True  # as timm's scripts: batches have one size
    if accelerator.distributed_type.value not in _DATA_PARALLEL:
        raise UserError(
            f'{accelerator.distributed_type.value}: networks are trained whole on each device here; configure '
            'Accelerate for plain data parallelism (accelerate config)')
    if wanted == 'fp16' and accelerator.device.type == 'cpu':
        raise UserError('fp16 needs a GPU; on a CPU use bf16 (accelerate launch --mixed_precision bf16) or no')
    if accelerator.device.type == 'cpu':
        keep_freed_memory()
    no_autocast_cache()
    _cores_of_all[:] = gather_object([_own_cores()]) if accelerator.num_processes > 1 else []
    return accelerator


def no_autocast_cache() -> None:
    """Let autocast convert weights whenever they are used, in this thread: what it would keep is the process's, and the
    thread of another seed would empty it.

    Not by Accelerate's `AutocastKwargs`, which it reads anew at each step, and takes all variables out of the
    environment for that: a thread that looks one up meanwhile, as torch's batch norm does, crashes.
    """
    torch.set_autocast_cache_enabled(False)


def start_trackers(accelerator: Accelerator, names: Sequence[str], folder: str, config: dict[str, Any]) -> None:
    """Start Accelerate's trackers; those that write files write below `folder`, whose name is the run's.

    The project is WANDB_PROJECT of the environment, for any of them, else timm_ltkd.
    """
    if names:
        accelerator.log_with = filter_trackers(list(names), folder)
        places = accelerator.project_configuration
        places.project_dir = places.logging_dir = folder  # not set_directories: it would keep the teacher's
        plain = {key: value if isinstance(value, (int, float, str, bool)) else str(value)
                 for key, value in config.items()}
        name = os.path.basename(folder)
        accelerator.init_trackers(os.environ.get('WANDB_PROJECT') or 'timm_ltkd', config=plain, init_kwargs={
            'wandb': {'name': name, 'dir': folder}, 'mlflow': {'run_name': name}, 'trackio': {'name': name},
            'swanlab': {'experiment_name': name}})


def finish_trackers(accelerator: Accelerator) -> None:
    """As `Accelerator.end_training`, but the process group stays: after a teacher its student is trained."""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []


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


def exchange(accelerator: Accelerator) -> Callable[[Any], list] | None:
    """What gives all processes the list of what each gives; None for a process that is alone."""
    return None if accelerator.num_processes == 1 else lambda value: gather_object([value])


def loader_workers(asked: int) -> int:
    """How many loader workers a process gets: as many as asked for, but no more than there are cores for it, or for any
    other process, since a stream is shared out by their number."""
    return min(asked, _own_cores(), *_cores_of_all)


def _own_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def pins_memory(args: Namespace, accelerator: Accelerator) -> bool:
    """Whether loaders give page-locked batches: as `--pin-mem` says, else for a CUDA GPU."""
    return accelerator.device.type == 'cuda' if args.pin_mem is None else args.pin_mem


def set_up_logging(main_process: bool) -> None:
    """Messages of this package to stderr, from the main process; the others only speak of errors."""
    logger = logging.getLogger('timm_ltkd')
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Lines('%(message)s'))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if main_process else logging.ERROR)


class _Lines(logging.Formatter):
    """Say which of several runs speaks, each trained in a thread of its name; and names of files and classes, which can
    be anything, do nothing to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        alone = record.threadName == threading.main_thread().name
        text = super().format(record) if alone else f'{record.threadName}: {super().format(record)}'
        return '\n'.join(visible(line, most=10_000) for line in text.split('\n'))
