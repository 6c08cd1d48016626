"""Logit-adjusted cross-entropy (Menon et al. 2021)."""
import torch

from ...prior import ClassPrior
from ..checks import check_class_count, check_number, full_precision
from .ce import cross_entropy_loss
from .loss import HardLabelLoss, register_loss


def logit_adjusted_loss(
        logits: torch.Tensor,
        target: torch.Tensor,
        log_prior: torch.Tensor,
        tau: float = 1.,
        smoothing: float = 0.,
) -> torch.Tensor:
    """CE(z + τ · log π, y), mean over the batch.

    Source: Menon et al. 2021, arXiv 2007.07314, eq. 10. τ = 0 is cross-entropy.

    Args:
        logits: z `[B, C]`.
        target: Class indices `[B]`, or shares `[B, C]`.
        log_prior: log π `[C]`; a constant added to it does not matter.
        tau: τ.
        smoothing: Label smoothing.

    Returns:
        Scalar, in float32 at least.

    Raises:
        UserError: Labels that are neither, or a prior of another number of classes.
    """
    check_class_count(log_prior.numel(), logits)
    logits = full_precision(logits)
    return cross_entropy_loss(logits + (tau * log_prior).to(logits), target, smoothing)


@register_loss('logit_adjust')
class LogitAdjust(HardLabelLoss):
    """Cross-entropy of z + τ log π: a margin for rare classes (Menon et al. 2021, arXiv 2007.07314).

    Args:
        prior: Class prior π of the training set.
        tau: τ; 0 is cross-entropy and 1 balanced softmax.
        smoothing: Label smoothing.
    """
    log_prior: torch.Tensor

    def __init__(self, *, prior: ClassPrior, tau: float = 1., smoothing: float = 0.):
        super().__init__()
        self.tau = check_number('logit_adjust', 'tau', tau, least=0.)
        self.corrects_prior = self.tau > 0
        self.smoothing = check_number('logit_adjust', 'smoothing', smoothing, least=0., most=1.)
        self.register_buffer('log_prior', prior.log_prior(), persistent=False)  # float64; from the prior, not saved

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return logit_adjusted_loss(logits, target, self.log_prior, self.tau, self.smoothing)
