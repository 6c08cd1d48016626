"""One epoch of training."""
import logging
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch.utils.data import DataLoader
from tqdm import tqdm

from ...data import SeededMixup, epoch_plan
from .bank import BankedTeacher
from .watch import LossWatch

_SILENCE = 60.  # seconds without a line where no progress bar is shown
_logger = logging.getLogger(__name__)


def train_epoch(
        task: TrainingTask,
        loader: DataLoader,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        args: Namespace,
        epoch: int,
        epochs: int,
        updates: int,
        scheduler: Any,
        mixing: SeededMixup | None,
        watch: LossWatch,
        turn: AbstractContextManager | None,
        step: Callable[..., None],
        of_rows: bool,
        bank: BankedTeacher | None,
) -> tuple[dict[str, float], int]:
    """Train on every batch of the loader once.

    The host never waits for the device, but at the end: where `watch` is read.

    Args:
        task: Its trainable module and the optimizer are prepared by the accelerator.
        loader: Yields (input, target); from `create_train_loader`.
        optimizer: Of the task's trainable module.
        accelerator: Device, precision, processes, gradient accumulation.
        args: Options of the run: `log_interval`, `sched_on_updates`.
        epoch: From 0.
        epochs: How many there will be, for the progress bar.
        updates: Optimizer updates made before.
        scheduler: timm's, stepped after each update if `sched_on_updates`.
        mixing: Mixup and CutMix, if any: makes soft targets of class indices.
        watch: Adds up the losses.
        turn: Around each step, where several runs are trained at once.
        step: What trains on a batch: a `TrainingStep`, or a graph of one.
        of_rows: `step` takes what the loader's `showings` yield, and makes the images itself.
        bank: Says what the teacher does, for `step` to unpack.

    Returns:
        Means over the epoch (`loss`, its parts by name, `seconds`), and the updates made until now.

    Raises:
        UserError: A loss is NaN or infinite.
    """
    task.train()
    start = time.perf_counter()
    watch.start()
    turn = turn or nullcontext()
    window, sizes = accelerator.gradient_accumulation_steps, epoch_plan(loader).batch_sizes()
    if bank is not None:
        bank.start()
    bar = tqdm(  # None shows it on a terminal only
        total=len(sizes), desc=f'epoch {epoch + 1}/{epochs}', leave=False,
        disable=None if accelerator.is_main_process and threading.current_thread() is threading.main_thread() else True)
    told = start
    with bar:  # which must be gone before anything else is told
        for i, batch in enumerate(loader.showings() if of_rows else loader):
            with turn:
                last_of_window = (i + 1) % window == 0 or i + 1 == len(sizes)
                if of_rows:
                    taught = () if bank is None else (bank.rows(i, partial(loader.images.batch, batch)),)
                    step(batch, *taught)
                else:
                    input, target = (part.to(accelerator.device, non_blocking=True) for part in batch)
                    if mixing is not None:
                        input, target = mixing(input, target, epoch, i)
                    first = i // window * window  # the last batch and the last window may be smaller
                    share = sizes[i] * window / sum(sizes[first:first + window])
                    taught = () if bank is None else (bank.rows(i, input),)
                    step(input, target, *taught, share=share, update=last_of_window)
                if last_of_window:
                    updates += 1
                    if task.has_ema():
                        task.update_ema(step=updates)
                    if args.sched_on_updates and scheduler is not None:
                        scheduler.step_update(num_updates=updates)
            bar.update()
            if i % args.log_interval == 0 and (loss := watch.check(epoch + 1)) is not None:
                rate = sum(sizes[:i + 1]) * accelerator.num_processes / (time.perf_counter() - start)
                lr = f'{optimizer.param_groups[0]["lr"]:.3g}'
                bar.set_postfix(loss=f'{loss:.4f}', lr=lr, img_s=f'{rate:.0f}')
                if bar.disable and (now := time.perf_counter()) - told > _SILENCE:
                    told = now
                    _logger.info(
                        f'epoch {epoch + 1}/{epochs}, batch {i + 1}/{len(sizes)}: loss {loss:.4f}, lr {lr}, '
                        f'{rate:.0f} img/s')
    means = watch.read(epoch + 1)
    if bank is not None:
        bank.flush()
    means['seconds'] = time.perf_counter() - start
    return means, updates


def eval_network(task: TrainingTask) -> torch.nn.Module:
    """The network to evaluate and export: the moving average where there is one, without any wrapper."""
    return unwrap_model(task.get_eval_model(ema=task.has_ema()))
