"""Balanced knowledge distillation (Zhang et al. 2021)."""
import torch

from ..prior import ClassPrior
from .checks import check_class_count, check_number, check_temperature, full_precision
from .closed_form import softened_kl
from .kd import kd_loss
from .method import DistillMethod, Output, register_method, standardize_logits


def balanced_kd_loss(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        class_weights: torch.Tensor,
        temperature: float = 2.,
) -> torch.Tensor:
    """T² · KL(q' ‖ softmax(z_s / T)) with q'_c = ω_c q_c / Σ_j ω_j q_j and q = softmax(z_t / T), mean over the batch.

    Source: Zhang et al. 2021, arXiv 2104.10510. q' is computed as softmax(z_t / T + log ω), which is the same and
    loses no tail class to rounding. With equal weights it is `kd_loss`.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`.
        class_weights: ω `[C]`, positive; their scale does not matter.
        temperature: T > 0.

    Returns:
        Scalar, in float32 at least.
    """
    return softened_kl(student_logits, teacher_logits, temperature, class_weights.log()).mean() * temperature


@register_method('bkd')
class BKD(DistillMethod):
    """α · T² · KL from the class-weighted teacher to the student (Zhang et al. 2021, arXiv 2104.10510).

    Args:
        prior: Class prior of the training set; ω are its effective-number weights.
        temperature: Softens both distributions.
        alpha: Weight of the term.
        beta: β of the effective numbers.
        deferred_epochs: Plain distillation (ω = 1) for so many epochs first; the paper uses 160 of 200 on CIFAR-10-LT.
    """
    class_weights: torch.Tensor
    corrects_prior = True
    standardized = False

    def __init__(
            self,
            *,
            prior: ClassPrior,
            temperature: float = 2.,
            alpha: float = 1.,
            beta: float = 0.9999,
            deferred_epochs: int = 0,
    ):
        super().__init__()
        self.temperature = check_temperature('bkd', temperature)
        self.alpha = check_number('bkd', 'alpha', alpha, least=0.)
        self.deferred_epochs = check_number('bkd', 'deferred_epochs', deferred_epochs, least=0.)
        weights = prior.effective_number_weights(check_number('bkd', 'beta', beta))
        self.register_buffer('class_weights', weights, persistent=False)  # float64; made from the prior, not saved
        self.balanced = self.deferred_epochs == 0

    def set_epoch(self, epoch: int) -> None:
        self.balanced = epoch >= self.deferred_epochs

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        check_class_count(len(self.class_weights), student.logits)  # deferred weights are told of at once
        if self.standardized:
            taught = full_precision(teacher.logits.detach())
            if self.balanced:
                taught = taught + (self.temperature * self.class_weights.log()).to(taught)
            loss = kd_loss(standardize_logits(student.logits), standardize_logits(taught), self.temperature)
        elif self.balanced:
            loss = balanced_kd_loss(student.logits, teacher.logits, self.class_weights, self.temperature)
        else:
            loss = kd_loss(student.logits, teacher.logits, self.temperature)
        return {'bkd_loss': self.alpha * loss}
