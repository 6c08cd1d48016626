"""Class-weighted cross-entropy (Cui et al. 2019)."""
import torch
import torch.nn.functional as F

from ...prior import ClassPrior
from ..checks import check_choice, check_number, full_precision
from .class_weights import ClassWeights
from .labels import mean_over_labels
from .loss import HardLabelLoss, register_loss


def weighted_cross_entropy_loss(
        logits: torch.Tensor,
        target: torch.Tensor,
        class_weights: torch.Tensor | None,
        smoothing: float = 0.,
) -> torch.Tensor:
    """Σ_i ω_{y_i} · CE(z_i, y_i) / Σ_i ω_{y_i}.

    Source: Cui et al. 2019, arXiv 1901.05555, section 4, divided by the weights of the batch as torch does, so that a
    batch of rare classes makes no larger step. With equal weights it is cross-entropy.

    Args:
        logits: z `[B, C]`.
        target: Class indices `[B]`, or shares `[B, C]`, which weigh class by class (see `mean_over_labels`).
        class_weights: ω `[C]`, positive; their scale does not matter. None weighs all classes alike.
        smoothing: Label smoothing.

    Returns:
        Scalar, in float32 at least.
    """
    return mean_over_labels(-F.log_softmax(full_precision(logits), dim=1), target, class_weights, smoothing)


@register_loss('weighted_ce')
class WeightedCrossEntropy(HardLabelLoss):
    """Cross-entropy weighted by class, by default with effective numbers (Cui et al. 2019, arXiv 1901.05555).

    Args:
        prior: Class prior of the training set.
        weights: 'effective' (numbers) or 'inverse' (frequency).
        beta: β of the effective numbers, 0.9999 if not given.
        deferred_epochs: Plain cross-entropy for so many epochs first (Cao et al. 2019, arXiv 1906.07413).
        smoothing: Label smoothing.
    """
    corrects_prior = True

    def __init__(
            self,
            *,
            prior: ClassPrior,
            weights: str = 'effective',
            beta: float | None = None,
            deferred_epochs: float = 0,
            smoothing: float = 0.,
    ):
        super().__init__()
        self.smoothing = check_number('weighted_ce', 'smoothing', smoothing, least=0., most=1.)
        check_choice('weighted_ce', 'weights', weights, ('effective', 'inverse'))
        self.class_weights = ClassWeights('weighted_ce', prior, weights, beta, deferred_epochs)

    def set_epoch(self, epoch: int) -> None:
        self.class_weights.set_epoch(epoch)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return weighted_cross_entropy_loss(logits, target, self.class_weights(), self.smoothing)
