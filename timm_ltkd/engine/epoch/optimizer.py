"""The optimizer of a run, fused where torch has it fused, and the schedule of its learning rate: both timm's."""
import inspect
import warnings
from argparse import Namespace
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from torch import nn

from ...errors import UserError, last_line, nearest, unknown_keyword

_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_OTHER_WAYS = ('fused', 'foreach', 'differentiable')  # options of an update that is not to be fused, or is anyway


def create_optimizer(args: Namespace, module: nn.Module, precision: str | None = None) -> torch.optim.Optimizer:
    """timm's optimizer for a module, its update fused where torch's own can be and `--opt-kwargs` leaves it open.

    Not that of SGD with dampening under fp16: where the first update is skipped, as it nearly always is until the loss
    scale fits, its momentum would be left as the memory was.

    Raises:
        UserError: An unknown optimizer or option (the nearest is named).
    """
    name = args.opt.lower()
    if name.removeprefix('lookahead_') not in list_optimizers():
        raise UserError(f"--opt: unknown optimizer '{args.opt}'{nearest(name, list_optimizers())}")
    if args.opt_betas is not None and len(args.opt_betas) < 2:
        raise UserError('--opt-betas: give as many numbers as the optimizer has betas, two for most (0.9 0.999)')
    if twice := optimizer_kwargs(args).keys() & args.opt_kwargs:
        raise UserError(f"--opt-kwargs {min(twice)}: it has an option of its own, use that (see --help)")
    fused, chosen = {}, set(_OTHER_WAYS) & args.opt_kwargs.keys()
    try:
        if not chosen and _can_be_fused(name, precision, args.opt_kwargs):
            fused = {'fused': True}
        optimizer = create_optimizer_v2(
            module, **optimizer_kwargs(args), filter_bias_and_bn=args.filter_bias_and_bn, **args.opt_kwargs, **fused)
    except Exception as e:  # whatever an optimizer raises for options that it cannot use
        if (keyword := unknown_keyword(e)) is not None:
            made_of = get_optimizer_class(name.removeprefix('lookahead_'), bind_defaults=False)
            hint = nearest(keyword, inspect.signature(made_of).parameters)
            raise UserError(f"--opt '{args.opt}' has no option '{keyword}'{hint}") from e
        raise UserError(f"--opt '{args.opt}': {last_line(e)}") from e
    if getattr(optimizer, 'is_second_order', False):
        raise UserError(f"--opt '{args.opt}' needs second derivatives, which are not computed here; choose another")
    if fused:
        optimizer.register_step_pre_hook(_begin_momentum)
        optimizer.register_load_state_dict_post_hook(_stay_fused)
    return optimizer


def create_schedule(
        args: Namespace, optimizer: torch.optim.Optimizer, updates_per_epoch: int = 1) -> tuple[Scheduler, int]:
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


def run_epochs(args: Namespace) -> int:
    """How many epochs the schedule makes of the options, warm-up and cooldown included; raises as `create_schedule`."""
    return create_schedule(args, torch.optim.SGD([torch.zeros(1)]))[1]


def _can_be_fused(name: str, precision: str | None, options: dict[str, Any]) -> bool:
    """Whether an optimizer is one of those of which torch has a fused update, itself and not as a part of another."""
    made_of = get_optimizer_class(name.removeprefix('lookahead_'), bind_defaults=False)
    skipped = made_of is torch.optim.SGD and precision == 'fp16' and options.get('dampening')
    return not name.startswith('lookahead_') and made_of in _FUSED and not skipped


def _begin_momentum(optimizer: torch.optim.Optimizer, *_) -> None:
    """Give parameters with a first gradient their momentum, where fused SGD would not.

    It makes that of all at once, so not of parameters whose first gradient comes after others'; and what it makes is
    whatever the memory held, if this update is skipped under fp16. From zero it comes to the same, but for dampening.

    Raises:
        UserError: Within a CUDA graph, which would make it anew at every step.
    """
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        trained = [p for p in group['params'] if p.grad is not None] if group['momentum'] else []
        late = [p for p in trained if optimizer.state[p].get('momentum_buffer') is None]
        if late and (len(late) < len(trained) or not group['dampening']):
            if late[0].is_cuda and torch.cuda.is_current_stream_capturing():
                raise UserError('--cuda-graph: a parameter gets its first gradient later than others; leave it out')
            for parameter in late:
                optimizer.state[parameter]['momentum_buffer'] = torch.zeros_like(parameter)


@torch.no_grad()
def _stay_fused(optimizer: torch.optim.Optimizer) -> None:
    """Make loaded state what a fused update needs, whatever run it comes from.

    Parameter, gradient and state are walked through side by side as they lie in memory, so they must lie alike (on a
    CPU torch does not check that); steps are counted on the parameter's device.
    """
    for group in optimizer.param_groups:
        group['fused'] = True
        for parameter in group['params']:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    like = parameter if value.shape == parameter.shape else value.to(parameter.device)
                    state[name] = torch.empty_like(like, dtype=value.dtype).copy_(value)
