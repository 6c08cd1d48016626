"""The schedule of the learning rate: timm's."""
import warnings
from argparse import Namespace

import torch
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler

from ..errors import UserError, last_line


def create_schedule(
        args: Namespace, optimizer: torch.optim.Optimizer, updates_per_epoch: int = 1) -> tuple[Scheduler | None, int]:
    """The schedule that the options name, and how many epochs it makes of them.

    Args:
        optimizer: Of what is trained.
        updates_per_epoch: For a schedule that is stepped on updates.

    Raises:
        UserError: Options that make no schedule.
    """
    with warnings.catch_warnings():  # that a plateau is not in checkpoints: in ours it is
        warnings.filterwarnings('ignore', '.*is not saved in checkpoints', FutureWarning)
        try:
            return create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=updates_per_epoch)
        except (AssertionError, ValueError) as e:
            raise UserError(f"--sched '{args.sched}': {last_line(e)}") from e
