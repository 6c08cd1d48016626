"""One epoch of training."""
import time
from argparse import Namespace
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from timm.task import TrainingTask
from timm.utils import dispatch_clip_grad, unwrap_model
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data import SeededMixup, epoch_plan
from ..errors import UserError

_NO_STEP = 2 ** 62


class LossWatch:
    """Sums of the losses of an epoch and the first step with one that is not finite, kept on the device.

    Nothing is read back until `check` or `means` asks.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.bad_step = torch.full((), _NO_STEP, dtype=torch.int64, device=accelerator.device)

    def add(self, step: int, losses: dict[str, torch.Tensor], size: int) -> None:
        for name, loss in losses.items():
            loss = loss.detach().float() * size
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss
        finite = torch.isfinite(losses['loss'].detach())
        self.bad_step = torch.where(finite, self.bad_step, self.bad_step.clamp(max=step))
        self.count += size

    def check(self, epoch: int) -> None:
        """Raise a UserError on all processes if a loss of any was NaN or infinite so far."""
        bad = int(self.accelerator.gather(self.bad_step.reshape(1)).min())
        if bad < _NO_STEP:
            raise UserError(
                f'the loss became NaN or infinite in epoch {epoch}, step {bad}; the last checkpoint stands. '
                'Lower --lr, raise --warmup-epochs, or set --clip-grad')

    def means(self) -> dict[str, float]:
        """Mean of each loss over the epoch's images of all processes."""
        names = list(self.sums)
        totals = torch.stack([self.sums[name] for name in names] + [torch.tensor(
            float(self.count), device=self.accelerator.device)])
        *sums, count = self.accelerator.reduce(totals, 'sum').tolist()
        return {name: total / count for name, total in zip(names, sums, strict=True)}


def train_epoch(
        task: TrainingTask,
        loader: DataLoader,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        args: Namespace,
        epoch: int,
        epochs: int,
        updates: int,
        scheduler: Any = None,
        mixing: SeededMixup | None = None,
) -> tuple[dict[str, float], int]:
    """Train on every batch of the loader once.

    Args:
        task: Its trainable module and the optimizer are prepared by the accelerator.
        loader: Yields (input, target); from `create_train_loader`.
        optimizer: Of the task's trainable module.
        accelerator: Device, precision, processes, gradient accumulation.
        args: Options of the run: `clip_grad`, `clip_mode`, `channels_last`, `log_interval`, `sched_on_updates`,
            `torchcompile`.
        epoch: From 0.
        epochs: How many there will be, for the progress bar.
        updates: Optimizer updates made before.
        scheduler: timm's, stepped after each update if `sched_on_updates`.
        mixing: Mixup and CutMix, if any: makes soft targets of class indices.

    Returns:
        Means over the epoch (`loss`, its parts by name, `seconds`), and the updates made until now.

    Raises:
        UserError: A loss is NaN or infinite.
    """
    task.train()
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    watch, start = LossWatch(accelerator), time.perf_counter()
    batches, window = len(loader), accelerator.gradient_accumulation_steps
    sizes = epoch_plan(loader).batch_sizes()
    bar = tqdm(  # None shows it on a terminal only
        total=batches, desc=f'epoch {epoch + 1}/{epochs}', leave=False,
        disable=None if accelerator.is_main_process else True)
    for step, (input, target) in enumerate(loader):
        input = input.to(accelerator.device, non_blocking=True)
        target = target.to(accelerator.device, non_blocking=True)
        if mixing is not None:
            input, target = mixing(input, target, epoch, step)
        input = input.contiguous(memory_format=layout)
        last_of_window = (step + 1) % window == 0 or step + 1 == batches
        accelerator.sync_gradients = last_of_window
        if args.torchcompile:  # else a CUDA graph of the student may overwrite what one of the teacher gave
            torch.compiler.cudagraph_mark_step_begin()
        with nullcontext() if last_of_window else accelerator.no_sync(task.trainable_module):
            with accelerator.autocast():
                result = task(input, target)
            first = step // window * window
            share = len(target) / sum(sizes[first:first + window])  # the last batch and window may be smaller
            accelerator.backward(result['loss'] * (share * window))  # backward divides by `window`
        watch.add(step + 1, {name: value for name, value in result.items() if name != 'output'}, len(target))
        if last_of_window:
            if args.clip_grad is not None:
                accelerator.unscale_gradients(optimizer)
                parameters = task.get_clip_parameters(exclude_head='agc' in args.clip_mode)
                dispatch_clip_grad(parameters, value=args.clip_grad, mode=args.clip_mode)
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            if task.has_ema():
                task.update_ema(step=updates)
            if args.sched_on_updates and scheduler is not None:
                scheduler.step_update(num_updates=updates)
        bar.update()
        if step % args.log_interval == 0:
            watch.check(epoch + 1)
            rate = (step + 1) * len(target) * accelerator.num_processes / (time.perf_counter() - start)
            bar.set_postfix(
                loss=f'{float(result["loss"].detach()):.4f}', lr=f'{optimizer.param_groups[0]["lr"]:.3g}',
                img_s=f'{rate:.0f}')
    watch.check(epoch + 1)
    bar.close()
    means = watch.means()
    means['seconds'] = time.perf_counter() - start
    return means, updates


def eval_network(task: TrainingTask) -> torch.nn.Module:
    """The network to evaluate and export: the moving average where there is one, without any wrapper."""
    return unwrap_model(task.get_eval_model(ema=task.has_ema()))
