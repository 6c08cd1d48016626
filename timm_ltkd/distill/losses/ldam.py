"""Label-distribution-aware margins (Cao et al. 2019)."""
import torch
import torch.nn.functional as F
from torch import nn

from ...errors import UserError
from ...prior import ClassPrior
from ..checks import check_class_count, check_labels, check_number, full_precision
from ..classifier import find_classifiers
from .class_weights import ClassWeights
from .cosine import cosine_classifier
from .loss import HardLabelLoss, register_loss


def ldam_margins(prior: ClassPrior, max_margin: float = 0.5) -> torch.Tensor:
    """Margins m_c = K / n_c^¼, float32 `[C]`, with K such that the rarest class has `max_margin`.

    Source: Cao et al. 2019, arXiv 1906.07413, section 3.2; rounded to float32 as in the authors' code.
    """
    margins = prior.counts ** -0.25
    return (margins * (max_margin / margins.max())).float()


def ldam_loss(
        cosines: torch.Tensor,
        target: torch.Tensor,
        margins: torch.Tensor,
        scale: float = 30.,
        class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """CE(s · (x - m_y · onehot(y)), y), weighted mean over the batch as torch's.

    Source: Cao et al. 2019, arXiv 1906.07413, section 3.2, with s of the authors' code. Without margins it is the
    cross-entropy of s · x.

    Args:
        cosines: x `[B, C]`, cosines of features and class weights.
        target: Class indices `[B]`.
        margins: m `[C]`, from `ldam_margins`.
        scale: s > 0.
        class_weights: ω `[C]`, positive; their scale does not matter. None weighs all classes alike.

    Returns:
        Scalar, in float32 at least.

    Raises:
        UserError: The labels are no class indices, or margins or weights of another number of classes.
    """
    if target.is_floating_point():
        raise UserError("ldam's margin belongs to one class and not to a mix of them: leave out mixup, cutmix and soft "
                        'labels, or choose another loss')
    target = check_labels(target, cosines)
    for each in (margins, class_weights):
        if each is not None:
            check_class_count(each.numel(), cosines)
    cosines = full_precision(cosines)
    own = target.unsqueeze(1)
    shifted = cosines.scatter_add(1, own, -margins.to(cosines)[own])
    return F.cross_entropy(
        scale * shifted, target, weight=None if class_weights is None else class_weights.to(cosines))


@register_loss('ldam')
class LDAM(HardLabelLoss):
    """Margins that grow as classes get rarer, on a normalised classifier (Cao et al. 2019, arXiv 1906.07413).

    `prepare` gives the network a cosine classifier, whose logits are s · cos: those are what this loss takes and what a
    distillation method sees. What is evaluated is the plain network of `plain_classifier`.

    Args:
        prior: Class prior of the training set.
        max_margin: Margin of the rarest class, on cosines.
        scale: s, of the cosines.
        weights: Class weights: 'effective' (numbers), 'inverse' (frequency) or 'none'. Not given, they are 'none', or
            'effective' where one of the next two is.
        beta: β of the effective numbers, 0.9999 if not given.
        deferred_epochs: The class weights come in after so many epochs: LDAM-DRW (160 of 200 in the paper).
    """
    margins: torch.Tensor
    accepts_soft_targets = False

    def __init__(
            self,
            *,
            prior: ClassPrior,
            max_margin: float = 0.5,
            scale: float = 30.,
            weights: str | None = None,
            beta: float | None = None,
            deferred_epochs: float | None = None,
    ):
        super().__init__()
        self.scale = check_number('ldam', 'scale', scale, above=0.)
        margins = ldam_margins(prior, check_number('ldam', 'max_margin', max_margin, least=0.))
        self.register_buffer('margins', margins, persistent=False)
        self.class_weights = ClassWeights('ldam', prior, weights, beta, deferred_epochs)
        self.corrects_prior = self.class_weights.weights is not None

    def prepare(self, network: nn.Module) -> None:
        cosine_classifier(network, self.scale)

    def check_prepared(self, network: nn.Module) -> None:
        if any(isinstance(part, nn.Linear) for head in find_classifiers(network) for part in head):
            raise UserError(
                f'ldam trains a cosine classifier, and that of {type(network).__name__} is a linear one still: call '
                "the loss's prepare(student) before the task and the optimizer are made")

    def set_epoch(self, epoch: int) -> None:
        self.class_weights.set_epoch(epoch)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        cosines = full_precision(logits) / self.scale
        return ldam_loss(cosines, target, self.margins, self.scale, self.class_weights())
