"""Weighted soft labels (Zhou et al. 2021)."""
import torch
import torch.nn.functional as F

from .checks import NO_LABEL, check_labels, check_number, check_pair, check_temperature, full_precision
from .closed_form import softened_kl
from .method import DistillMethod, Output, register_method, standardize_logits


def soft_label_weights(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        target: torch.Tensor,
) -> torch.Tensor:
    """1 - exp(-CE(z_s, y) / CE(z_t, y)) of each sample: how much the student can still learn from the soft label.

    Source: Zhou et al. 2021, arXiv 2102.00650. From 0, where the student is far surer of the label than the teacher,
    to 1. No temperature; no gradient flows through the weights.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`.
        target: Class indices `[B]`, or probabilities `[B, C]`.

    Returns:
        `[B]`, in float32 at least.
    """
    check_pair(student_logits, teacher_logits)
    target = check_labels(target, student_logits)
    student, teacher = (full_precision(logits.detach()) for logits in (student_logits, teacher_logits))
    target = target.to(student.dtype) if target.is_floating_point() else target
    student_ce, teacher_ce = (
        F.cross_entropy(logits, target, reduction='none', ignore_index=NO_LABEL) for logits in (student, teacher))
    return -torch.expm1(-student_ce / teacher_ce.clamp(min=torch.finfo(teacher_ce.dtype).tiny))


def wsl_loss(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        target: torch.Tensor,
        temperature: float = 2.,
        standardize: bool = False,
) -> torch.Tensor:
    """T² · w_i · KL(softmax(z_t / T) ‖ softmax(z_s / T)) of sample i, batch mean; w: `soft_label_weights`.

    Source: Zhou et al. 2021, arXiv 2102.00650. The paper has the cross-entropy of the soft labels where this has KL
    (ours): the gradient is the same, and the loss is 0 where student and teacher agree.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`; the teacher gets no gradient.
        target: Class indices `[B]`, or probabilities `[B, C]`.
        temperature: T > 0.
        standardize: Compare z-scored logits (Sun et al. 2024); the weights are those of the plain ones.

    Returns:
        Scalar, in float32 at least.
    """
    weights = soft_label_weights(student_logits, teacher_logits, target)
    if standardize:
        student_logits, teacher_logits = standardize_logits(student_logits), standardize_logits(teacher_logits)
    return (weights * softened_kl(student_logits, teacher_logits, temperature)).mean() * temperature


@register_method('wsl')
class WSL(DistillMethod):
    """α · T² · KL, each sample weighted by how little it is learnt (Zhou et al. 2021, arXiv 2102.00650).

    Args:
        temperature: Softens both distributions. The default is the authors' for ImageNet; on CIFAR-100 they have 4.
        alpha: Weight of the term. The default is theirs for ImageNet; on CIFAR-100 they have 2.25.
    """

    standardized = False

    def __init__(self, *, temperature: float = 2., alpha: float = 2.5):
        super().__init__()
        self.temperature = check_temperature('wsl', temperature)
        self.alpha = check_number('wsl', 'alpha', alpha, least=0.)

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return {'wsl_loss': self.alpha * wsl_loss(
            student.logits, teacher.logits, target, self.temperature, bool(self.standardized))}
