"""Balanced softmax (Ren et al. 2020)."""
import torch

from ...prior import ClassPrior
from ..checks import check_number
from .logit_adjust import logit_adjusted_loss
from .loss import HardLabelLoss, register_loss


def balanced_softmax_loss(
        logits: torch.Tensor,
        target: torch.Tensor,
        log_prior: torch.Tensor,
        smoothing: float = 0.,
) -> torch.Tensor:
    """-log (n_y e^{z_y} / Σ_j n_j e^{z_j}), mean over the batch.

    Source: Ren et al. 2020, arXiv 2007.10740, section 3.1. The logit-adjusted loss with τ = 1; with equal counts
    cross-entropy.

    Args:
        logits: z `[B, C]`.
        target: Class indices `[B]`, or shares `[B, C]`.
        log_prior: log π `[C]`, or log n.
        smoothing: Label smoothing.

    Returns:
        Scalar, in float32 at least.
    """
    return logit_adjusted_loss(logits, target, log_prior, smoothing=smoothing)


@register_loss('balanced_softmax')
class BalancedSoftmax(HardLabelLoss):
    """Cross-entropy of z + log π: the classifier learns the balanced posterior (Ren et al. 2020, arXiv 2007.10740).

    Args:
        prior: Class prior π of the training set.
        smoothing: Label smoothing.
    """
    log_prior: torch.Tensor
    corrects_prior = True

    def __init__(self, *, prior: ClassPrior, smoothing: float = 0.):
        super().__init__()
        self.smoothing = check_number('balanced_softmax', 'smoothing', smoothing, least=0., most=1.)
        self.register_buffer('log_prior', prior.log_prior(), persistent=False)  # float64; from the prior, not saved

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return balanced_softmax_loss(logits, target, self.log_prior, self.smoothing)
