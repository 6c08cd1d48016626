"""Plain cross-entropy."""
import torch
import torch.nn.functional as F

from ..checks import NO_LABEL, check_labels, check_number, full_precision
from .loss import HardLabelLoss, register_loss


def cross_entropy_loss(logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.) -> torch.Tensor:
    """Cross-entropy, mean over the batch, in float32 at least: torch's, but for its `ignore_index` (no -100 here).

    Args:
        logits: `[B, C]`.
        target: Class indices `[B]`, or shares `[B, C]`.
        smoothing: Label smoothing.

    Raises:
        UserError: The labels are neither.
    """
    target, logits = check_labels(target, logits), full_precision(logits)
    if target.is_floating_point():
        target = target.to(logits)  # torch wants the same dtype
    return F.cross_entropy(logits, target, label_smoothing=smoothing, ignore_index=NO_LABEL)


@register_loss('ce')
class CrossEntropy(HardLabelLoss):
    """Plain cross-entropy, with label smoothing if asked for (Szegedy et al. 2016, arXiv 1512.00567).

    Args:
        smoothing: Label smoothing.
    """

    def __init__(self, *, smoothing: float = 0.):
        super().__init__()
        self.smoothing = check_number('ce', 'smoothing', smoothing, least=0., most=1.)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return cross_entropy_loss(logits, target, self.smoothing)
