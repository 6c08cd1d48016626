"""Hard-label losses, by name."""
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError, nearest
from ..prior import ClassPrior
from .method import call_with_known, full_precision


class BalancedSoftmax(nn.Module):
    """Cross-entropy of z + log π: the classifier learns the balanced posterior (Ren et al. 2020, arXiv 2007.10740).

    Args:
        prior: Class prior π of the training set.
        smoothing: Label smoothing.
    """

    def __init__(self, *, prior: ClassPrior, smoothing: float = 0.):
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer('log_prior', prior.log_prior(), persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = full_precision(logits)
        return F.cross_entropy(logits + self.log_prior.to(logits), target, label_smoothing=self.smoothing)


class CrossEntropy(nn.CrossEntropyLoss):
    """torch's cross-entropy, in float32 at least.

    Args:
        smoothing: Label smoothing.
    """

    def __init__(self, *, smoothing: float = 0.):
        super().__init__(label_smoothing=smoothing)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(full_precision(logits), target)


_LOSSES = {'ce': CrossEntropy, 'balanced_softmax': BalancedSoftmax}


def list_losses() -> list[str]:
    """Names of all hard-label losses, sorted."""
    return sorted(_LOSSES)


def create_loss(name: str, *, prior: ClassPrior | None = None, **kwargs) -> nn.Module:
    """Make the hard-label loss `name`: a module of (logits `[B, C]`, target `[B]`) that returns the batch mean.

    Raises:
        UserError: Unknown loss or option (the nearest is named), or a prior that is needed and missing.
    """
    if name not in _LOSSES:
        raise UserError(f"unknown loss '{name}'{nearest(name, _LOSSES)}")
    return call_with_known(_LOSSES[name], f"loss '{name}'", prior, kwargs)
