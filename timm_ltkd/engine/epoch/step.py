"""One training step: forward, backward, and the update."""
from argparse import Namespace
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from timm.task import TrainingTask
from timm.utils import dispatch_clip_grad, unwrap_model

from ...data import Views
from ...distill.checks import check_scalar
from ...errors import UserError, first_few
from .bank import BankedTeacher
from .watch import LossWatch


class TrainingStep:
    """Trains on a batch; nothing in it waits for the device, so that it may be part of a CUDA graph.

    Args:
        task: Its trainable module and the optimizer are prepared by the accelerator.
        optimizer: Of the task's trainable module.
        accelerator: Device, precision, processes, gradient accumulation.
        args: Options of the run: `clip_grad`, `clip_mode`, `channels_last`, `torchcompile`.
        watch: Adds up the losses.
        bank: Unpacks what the teacher says, where that is known.
    """

    def __init__(
            self,
            task: TrainingTask,
            optimizer: torch.optim.Optimizer,
            accelerator: Accelerator,
            args: Namespace,
            watch: LossWatch,
            bank: BankedTeacher | None = None,
    ):
        self.task, self.optimizer, self.accelerator, self.args, self.watch = task, optimizer, accelerator, args, watch
        self.bank = bank
        self.layout = torch.channels_last if args.channels_last else torch.contiguous_format

    def __call__(
            self,
            input: torch.Tensor | Views,
            target: torch.Tensor,
            taught: torch.Tensor | None = None,
            *,
            share: float = 1.,
            update: bool = True,
    ) -> None:
        """Train on the images `[B, channels, H, W]`, on the device, with labels `[B]` or `[B, C]`.

        Args:
            input: Of a distillation, one view for the student and another for its teacher where they differ.
            target: Labels.
            taught: What the teacher says of the images, as `bank` packs it.
            share: What the batch counts beside the others of its update, of which it is one of
                `gradient_accumulation_steps`.
            update: Whether the weights are updated; if not, gradients wait for the next batch.

        Raises:
            UserError: A loss that is no number for each batch, or in several processes a weight without a gradient.
        """
        task, accelerator, args = self.task, self.accelerator, self.args
        input = input.contiguous(memory_format=self.layout)
        if args.torchcompile:  # else a CUDA graph of the student may overwrite what one of the teacher gave
            torch.compiler.cudagraph_mark_step_begin()
        known = {} if taught is None else {'taught': self.bank.unpack(taught)}
        with nullcontext() if update else accelerator.no_sync(task.trainable_module):
            with accelerator.autocast():
                result = task(input, target, **known)
                check_scalar('--loss', 'loss', result['loss'])
            accelerator.backward(result['loss'] * share)
        self.watch.add({name: value for name, value in result.items() if name != 'output'}, len(target))
        if update:
            if accelerator.num_processes > 1:
                self._check_gradients()
            if args.clip_grad is not None:
                accelerator.unscale_gradients(self.optimizer)
                parameters = task.get_clip_parameters(exclude_head='agc' in args.clip_mode)
                dispatch_clip_grad(parameters, value=args.clip_grad, mode=args.clip_mode)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _check_gradients(self) -> None:
        """Refuse weights without a gradient, for which DistributedDataParallel would wait in the next step."""
        if all(parameter.grad is not None for group in self.optimizer.param_groups for parameter in group['params']):
            return
        named = unwrap_model(self.task.trainable_module).named_parameters()
        idle = [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
        if idle:
            raise UserError(
                f'weights that get no gradient ({first_few(idle)}) cannot be trained in several processes: leave them '
                'out, freeze them (requires_grad_(False)), add 0 times their output to the loss, or launch one process')
