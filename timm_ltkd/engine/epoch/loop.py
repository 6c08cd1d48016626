"""One epoch of training."""
from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch.utils.data import DataLoader

from ...data import ResidentTrainLoader, SeededMixup, epoch_plan
from .bank import BankedTeacher
from .graph import graph_step
from .progress import Progress
from .step import TrainingStep
from .watch import LossWatch


class EpochLoop:
    """Trains on every batch of the loader, once an epoch.

    The host never waits for the device, but at the end: where `watch` is read.

    Args:
        task: Its trainable module and the optimizer are prepared by the accelerator.
        loader: Yields (input, target) on the device; from `create_train_loader`.
        optimizer: Of the task's trainable module.
        accelerator: Device, precision, processes, gradient accumulation.
        args: Options of the run: `log_interval`, `sched_on_updates`, `cuda_graph` and those of `TrainingStep`.
        watch: Adds up the losses.
        scheduler: timm's, stepped after each update if `sched_on_updates`.
        mixing: Mixup and CutMix, if any: makes soft targets of class indices.
        bank: Says what the teacher does, for the step to unpack.

    Attributes:
        updates: Of the optimizer, made until now.
        step: What trains on a batch: a `TrainingStep`, or a graph of one.
    """

    def __init__(
            self,
            task: TrainingTask,
            loader: DataLoader | ResidentTrainLoader,
            optimizer: torch.optim.Optimizer,
            accelerator: Accelerator,
            args: Namespace,
            watch: LossWatch,
            *,
            scheduler: Any = None,
            mixing: SeededMixup | None = None,
            bank: BankedTeacher | None = None,
    ):
        self.task, self.loader, self.optimizer, self.accelerator, self.args = task, loader, optimizer, accelerator, args
        self.watch, self.mixing, self.bank = watch, mixing, bank
        self.scheduler = scheduler if args.sched_on_updates else None
        step = TrainingStep(task, optimizer, accelerator, args, watch, bank)
        # a step of rows takes what the loader's `showings` yield, and makes the images itself
        self.step, self.of_rows = graph_step(step, loader) if args.cuda_graph else (step, False)
        self.window = accelerator.gradient_accumulation_steps
        self.updates = 0

    def run(self, epoch: int, epochs: int, turn: AbstractContextManager | None = None) -> dict[str, float]:
        """Train an epoch.

        Args:
            epoch: From 0.
            epochs: How many there will be.
            turn: Around each step, where several runs are trained at once.

        Returns:
            Means over the epoch: `loss`, its parts by name, `seconds`.

        Raises:
            UserError: A loss is NaN or infinite.
        """
        sizes, turn = epoch_plan(self.loader).batch_sizes(), turn or nullcontext()
        self.task.train()
        with Progress(epoch, epochs, len(sizes), self.accelerator.is_main_process) as progress:
            self.watch.start()
            if self.bank is not None:
                self.bank.start()
            for i, batch in enumerate(self.loader.showings() if self.of_rows else self.loader):
                with turn:
                    self._train_on(batch, epoch, i, sizes)
                progress.advance()
                looks = i % self.args.log_interval == 0 or progress.is_due()
                if looks and (loss := self.watch.check(epoch + 1)) is not None:
                    images = sum(sizes[:i + 1]) * self.accelerator.num_processes
                    progress.tell(i + 1, images, loss, self.optimizer.param_groups[0]['lr'])
        means = self.watch.read(epoch + 1)
        if self.bank is not None:
            self.bank.flush()
        return means | {'seconds': progress.seconds}

    def _train_on(self, batch: Any, epoch: int, i: int, sizes: list[int]) -> None:
        """Train on batch `i` of the epoch: (input, target), or rows; and do what follows an update, if it is one."""
        last_of_window = (i + 1) % self.window == 0 or i + 1 == len(sizes)
        if self.of_rows:
            self.step(batch, *self._taught(i, partial(self.loader.images.batch, batch)))
        else:
            input, target = batch
            if self.mixing is not None:
                input, target = self.mixing(input, target, epoch, i)
            first = i // self.window * self.window  # the last batch and the last window may be smaller
            share = sizes[i] * self.window / sum(sizes[first:first + self.window])
            self.step(input, target, *self._taught(i, input), share=share, update=last_of_window)
        if last_of_window:
            self.updates += 1
            if self.task.has_ema():
                self.task.update_ema(step=self.updates)
            if self.scheduler is not None:
                self.scheduler.step_update(num_updates=self.updates)

    def _taught(self, i: int, input: Any) -> tuple[torch.Tensor, ...]:
        """What the bank says of batch `i`, if there is one; `input`, or what makes it, is for what it does not know."""
        return () if self.bank is None else (self.bank.rows(i, input),)


def eval_network(task: TrainingTask) -> torch.nn.Module:
    """The network to evaluate and export: the moving average where there is one, without any wrapper."""
    return unwrap_model(task.get_eval_model(ema=task.has_ema()))
