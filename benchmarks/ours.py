"""The package's own run of the same recipe, made of the options that a command line gives it."""
import copy
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import plain
import torch
from accelerate import Accelerator
from measure import ROLE
from torch import nn

from timm_ltkd.cli.arguments import distill_parser, train_parser
from timm_ltkd.cli.config import parse
from timm_ltkd.data import LongTailedDataset, Splits
from timm_ltkd.distill import Teacher, create_method
from timm_ltkd.engine.build import trainable_network
from timm_ltkd.engine.processes import launch
from timm_ltkd.engine.run_data import Data
from timm_ltkd.engine.shared import Shared
from timm_ltkd.engine.training import Training
from timm_ltkd.prior import ClassPrior

HPARAMS = Path(__file__).resolve().parents[1] / 'hparams'
NEVER = 10 ** 6


def start(device: torch.device, precision: str) -> Accelerator:
    """The Accelerator that `accelerate launch --mixed_precision` would configure."""
    if ROLE in os.environ:  # the baselines' process, whose memory is as the system has it
        launch.keep_freed_memory = bool
    os.environ['ACCELERATE_MIXED_PRECISION'] = precision
    os.environ['ACCELERATE_USE_CPU'] = str(device.type == 'cpu').lower()
    return launch.create_accelerator()


def create_data(train: plain.Pixels, test: plain.Pixels) -> Data:
    """What a run is told of its data."""
    names = [str(c) for c in range(max(train.targets) + 1)]
    splits = Splits(LongTailedDataset(train, class_names=names), LongTailedDataset(test, class_names=names), names)
    return Data(splits, ClassPrior(splits.train.class_counts, names), 'pixels in memory')


def create_training(
        accelerator: Accelerator,
        data: Data,
        student: nn.Module,
        teacher: nn.Module | None = None,
        options: Sequence[str] = (),
        shared: Shared | None = None,
) -> Training:
    """A run of the CIFAR-100-LT recipe, by BKD, or by cross-entropy where there is no teacher.

    Args:
        accelerator: From `start`.
        data: From `create_data`.
        student: A network of the package; its weights are copied.
        teacher: Likewise.
        options: More of the command line.
        shared: What several have in common.
    """
    name = student.pretrained_cfg['architecture']
    options = ['--loader', 'resident', '--batch-size', str(plain.BATCH), '--output', os.devnull, *options]
    if accelerator.device.type == 'cuda':
        options.append('--cuda-graph')
    if teacher is None:
        config = str(HPARAMS / 'cifar100_lt100_teacher.yaml')
        args = parse(train_parser(), ['-c', config, '--model', name, *options])
        method = None
    else:
        config = str(HPARAMS / 'cifar100_lt100_bkd.yaml')
        args = parse(distill_parser(), ['-c', config, '--student', name, '--teacher', name, *options])
        method, teacher = create_method('bkd', prior=data.prior), Teacher(copy.deepcopy(teacher), fast=True)
    network = trainable_network(args, name, data, accelerator, '--student')
    network.load_state_dict(student.state_dict())
    return Training(args, accelerator, data, network, teacher, method, shared=shared)


def loss_and_gradient(
        training: Training,
        input: torch.Tensor,
        target: torch.Tensor,
        exact: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a batch on the device, for the student's parameters, flat; in float64 if `exact`. Changes nothing."""
    task = copy.deepcopy(training.task).train()
    if exact:
        input, task = input.double(), task.double()
    layout = torch.channels_last if training.args.channels_last else torch.contiguous_format
    with nullcontext() if exact else training.accelerator.autocast():
        loss = task(input.contiguous(memory_format=layout), target)['loss']
    gradients = torch.autograd.grad(loss, list(task.get_eval_model().parameters()))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])
