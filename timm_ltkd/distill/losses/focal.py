"""Focal loss (Lin et al. 2017)."""
import torch
import torch.nn.functional as F

from ...prior import ClassPrior
from ..checks import check_number, full_precision
from .class_weights import ClassWeights
from .labels import mean_over_labels
from .loss import HardLabelLoss, register_loss


def focal_loss(
        logits: torch.Tensor,
        target: torch.Tensor,
        gamma: float = 2.,
        class_weights: torch.Tensor | None = None,
        smoothing: float = 0.,
) -> torch.Tensor:
    """-(1 - p_y)^γ · log p_y with p = softmax(z), weighted mean over the batch.

    Source: Lin et al. 2017, arXiv 1708.02002, eq. 4 and 5, where p is a sigmoid of two classes; with the softmax of C
    classes as in the long-tailed literature. γ = 0 is (weighted) cross-entropy.

    Args:
        logits: z `[B, C]`.
        target: Class indices `[B]`, or shares `[B, C]`: a mixed image has the mixed losses of its labels.
        gamma: γ >= 0.
        class_weights: ω `[C]`, positive; their scale does not matter. None weighs all classes alike.
        smoothing: Label smoothing.

    Returns:
        Scalar, in float32 at least.
    """
    log_p = F.log_softmax(full_precision(logits), dim=1)
    doubt = -log_p.expm1()  # 1 - p without cancellation
    doubt = doubt.clamp(min=torch.finfo(doubt.dtype).tiny)  # at 0 the slope of a power below 1 is infinite
    return mean_over_labels(-doubt ** gamma * log_p, target, class_weights, smoothing)


@register_loss('focal')
class Focal(HardLabelLoss):
    """Focal loss: images that are easy already count less (Lin et al. 2017, arXiv 1708.02002).

    Args:
        prior: Class prior of the training set.
        gamma: How much less; 0 is cross-entropy.
        weights: Class weights: 'effective' (numbers), 'inverse' (frequency) or 'none'. Not given, they are 'none', or
            'effective' where one of the next two is.
        beta: β of the effective numbers, 0.9999 if not given.
        deferred_epochs: The class weights come in after so many epochs (Cao et al. 2019, arXiv 1906.07413).
        smoothing: Label smoothing.
    """

    def __init__(
            self,
            *,
            prior: ClassPrior,
            gamma: float = 2.,
            weights: str | None = None,
            beta: float | None = None,
            deferred_epochs: float | None = None,
            smoothing: float = 0.,
    ):
        super().__init__()
        self.gamma = check_number('focal', 'gamma', gamma, least=0.)
        self.smoothing = check_number('focal', 'smoothing', smoothing, least=0., most=1.)
        self.class_weights = ClassWeights('focal', prior, weights, beta, deferred_epochs)
        self.corrects_prior = self.class_weights.weights is not None

    def set_epoch(self, epoch: int) -> None:
        self.class_weights.set_epoch(epoch)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return focal_loss(logits, target, self.gamma, self.class_weights(), self.smoothing)
