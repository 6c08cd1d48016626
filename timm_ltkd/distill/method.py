"""What a distillation method is, and the register of all of them."""
import inspect
from typing import NamedTuple

import torch
from torch import nn

from ..errors import UserError, nearest
from ..prior import ClassPrior


class Output(NamedTuple):
    """What a network says about a batch: logits `[B, C]`, and pooled features `[B, D]` where a method needs them."""
    logits: torch.Tensor
    features: torch.Tensor | None = None


def model_output(model: nn.Module, input: torch.Tensor, needs_features: bool = False) -> Output:
    """Run a timm model on `[B, 3, H, W]` and return its logits, with the pooled pre-logits features if asked for.

    Raises:
        UserError: Features are needed from a model without timm's `forward_features` and `forward_head`.
    """
    if not needs_features:
        return Output(model(input))
    if not hasattr(model, 'forward_features') or not hasattr(model, 'forward_head'):
        raise UserError(
            f'{type(model).__name__} has no forward_features/forward_head, so it gives no features; '
            'choose another model, or a method that needs logits only')
    feature_map = model.forward_features(input)
    return Output(model.forward_head(feature_map), model.forward_head(feature_map, pre_logits=True))


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """float32 for half and bfloat16 tensors, others as they are: losses are never computed in less."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class DistillMethod(nn.Module):
    """How a student learns from a teacher.

    `forward(student, teacher, target)` takes two `Output`s and the labels `[B]` and returns the distillation terms by
    name, scalars that are already weighted; the task adds its hard-label criterion. A method may own parameters.
    """
    needs_features = False

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0; a method with a schedule acts on it."""

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        raise NotImplementedError


_METHODS: dict[str, type[DistillMethod]] = {}


def register_method(name: str):
    """Class decorator: make a `DistillMethod` known under `name`."""
    def register(cls: type[DistillMethod]) -> type[DistillMethod]:
        if name in _METHODS and _METHODS[name] is not cls:
            raise ValueError(f"a distillation method '{name}' is registered already")
        _METHODS[name] = cls
        return cls
    return register


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_METHODS)


def create_method(name: str, *, prior: ClassPrior | None = None, **kwargs) -> DistillMethod:
    """Make the method `name` for a training set with this class prior.

    Args:
        name: One of `list_methods()`.
        prior: Class prior of the training set; methods that balance by class need it.
        **kwargs: Options of the method.

    Raises:
        UserError: Unknown method or option (the nearest is named), or a prior that is needed and missing.
    """
    if name not in _METHODS:
        raise UserError(f"unknown distillation method '{name}'{nearest(name, _METHODS)}")
    return call_with_known(_METHODS[name], f"method '{name}'", prior, kwargs)


def call_with_known(factory, what: str, prior: ClassPrior | None, kwargs: dict):
    """Call a factory with keyword options, the prior too if it takes one; a wrong option names the valid ones."""
    parameters = inspect.signature(factory).parameters
    options = [key for key in parameters if key != 'prior']
    for key in kwargs:
        if key not in options:
            raise UserError(f"{what} has no option '{key}'{nearest(key, options)}")
    if 'prior' in parameters:
        if prior is None:
            raise UserError(f'{what} balances by class: pass prior=ClassPrior(class counts of the training set)')
        kwargs = dict(kwargs, prior=prior)
    return factory(**kwargs)


def check_number(what: str, name: str, value, *, above: float | None = None, least: float | None = None) -> float:
    """An option as a float; a UserError if it is no number or out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == float('inf'):
        raise UserError(f"{what}: {name} must be a number, got {value!r}")
    if above is not None and not value > above:
        raise UserError(f'{what}: {name} must be above {above:g}, got {value}')
    if least is not None and not value >= least:
        raise UserError(f'{what}: {name} must be at least {least:g}, got {value}')
    return float(value)
