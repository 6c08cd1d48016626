"""What a hard-label loss is, and the register of all of them."""
import torch
from torch import nn

from ...errors import UserError
from ...prior import ClassPrior
from ..register import describe, enter, look_up, make, options_of


class HardLabelLoss(nn.Module):
    """What a network is told about the labels, alone or beside a distillation method.

    `forward(logits, target)` takes logits `[B, C]` and labels, class indices `[B]` or shares of the classes `[B, C]`
    (mixup, cutmix), and returns the mean over the batch, in float32 at least.

    Attributes:
        accepts_soft_targets: Whether labels may be shares of classes; a loss that refuses them has no label smoothing
            either.
        corrects_prior: Whether it makes up for the class frequencies, as class-balanced sampling does.
    """
    accepts_soft_targets = True
    corrects_prior = False

    def prepare(self, network: nn.Module) -> None:
        """Change the network into one that the loss can train; called once, before anything else holds its parameters.

        Raises:
            UserError: The loss cannot train this network.
        """

    def check_prepared(self, network: nn.Module) -> None:
        """Raise a UserError if the loss trains only a network that `prepare` has changed, and this is not one."""

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0; a loss with a schedule acts on it."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


_LOSSES: dict[str, type[HardLabelLoss]] = {}


def register_loss(name: str):
    """Class decorator: make a `HardLabelLoss` known under `name`."""
    return enter(_LOSSES, 'loss', name, HardLabelLoss)


def list_losses() -> list[str]:
    """Names of all hard-label losses, sorted."""
    return sorted(_LOSSES)


def describe_losses() -> dict[str, str]:
    """What each loss is, in one line with the paper: the first line of its docstring; sorted by name."""
    return describe(_LOSSES)


def loss_class(name: str) -> type[HardLabelLoss]:
    """What is registered as the loss `name`; a UserError (with the nearest) if nothing is."""
    return look_up(_LOSSES, name, f"unknown loss '{name}'")


def create_loss(name: str, *, prior: ClassPrior | None = None, **kwargs) -> HardLabelLoss:
    """Make the hard-label loss `name` for a training set with this class prior.

    Args:
        name: One of `list_losses()`.
        prior: Class prior of the training set; losses that balance by class need it.
        **kwargs: Options of the loss.

    Raises:
        UserError: Unknown loss or option (the nearest is named), a value out of range, label smoothing for a loss
            without soft targets, or a prior that is needed and missing.
    """
    loss = loss_class(name)
    if not loss.accepts_soft_targets and kwargs.pop('smoothing', 0.):
        raise UserError(f"loss '{name}' takes one label an image, so it has no label smoothing; leave smoothing out")
    return make(loss, f"loss '{name}'", kwargs, {'prior': prior}, options_of(loss))
