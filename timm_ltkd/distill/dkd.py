"""Decoupled knowledge distillation (Zhao et al. 2022)."""
import torch
import torch.nn.functional as F

from .checks import check_hard_labels, check_number, check_pair, check_temperature, full_precision
from .kd import row_kl
from .method import DistillMethod, Output, register_method


def decoupled_kl(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        target: torch.Tensor,
        temperature: float = 4.,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of KL(q ‖ p) with q = softmax(z_t / T) and p = softmax(z_s / T), of each sample.

    Source: Zhao et al. 2022, arXiv 2203.08679, eq. 6: KL = target-class part + (1 - q_y) · non-target part. The label's
    column is taken out, not masked by a large constant, so that no logit is large enough to leak through.

    Args:
        student_logits: z_s `[B, C]`, C of at least 2.
        teacher_logits: z_t `[B, C]`; the teacher gets no gradient.
        target: Class indices y `[B]`.
        temperature: T > 0.

    Returns:
        KL between the label's probability and the rest `[B]`, and KL among the other classes `[B]`; without T².

    Raises:
        UserError: Labels that are not class indices, or logits of different shapes.
    """
    check_pair(student_logits, teacher_logits)
    target = check_hard_labels('dkd', target, len(student_logits))
    (student_binary, student_others), (teacher_binary, teacher_others) = (
        _split_target(full_precision(logits) / temperature, target)
        for logits in (student_logits, teacher_logits.detach()))
    return row_kl(student_binary, teacher_binary), row_kl(student_others, teacher_others)


def _split_target(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log of (label, rest) `[B, 2]`, and log of the probabilities among the other classes `[B, C - 1]`."""
    target = target.unsqueeze(1)
    column = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, column + (column >= target))
    binary = torch.cat([logits.gather(1, target), others.logsumexp(dim=1, keepdim=True)], dim=1)
    return F.log_softmax(binary, dim=1), F.log_softmax(others, dim=1)


def dkd_loss(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        target: torch.Tensor,
        alpha: float = 1.,
        beta: float = 8.,
        temperature: float = 4.,
) -> torch.Tensor:
    """T² · (α · target-class KL + β · non-target KL), mean over the batch.

    Source: Zhao et al. 2022, arXiv 2203.08679, eq. 7.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`.
        target: Class indices `[B]`.
        alpha: α, weight of the target-class part.
        beta: β, weight of the non-target part; plain distillation gives it 1 - q_y, next to nothing for a sure teacher.
        temperature: T > 0.

    Returns:
        Scalar, in float32 at least.
    """
    target_class, non_target = decoupled_kl(student_logits, teacher_logits, target, temperature)
    return (alpha * target_class + beta * non_target).mean() * temperature ** 2


@register_method('dkd')
class DKD(DistillMethod):
    """α · target-class KL + β · non-target KL, decoupled (Zhao et al. 2022, arXiv 2203.08679).

    Args:
        temperature: Softens both distributions.
        alpha: Weight of the target-class part.
        beta: Weight of the non-target part; the authors' code has 8, but 2 for pairs of CIFAR
            ResNets and 6 for those of VGG or WRN.
        warmup_epochs: The loss grows linearly to its weight over so many epochs. The authors' code has 20 of 240.
    """
    needs_hard_labels = True

    def __init__(self, *, temperature: float = 4., alpha: float = 1., beta: float = 8., warmup_epochs: int = 0):
        super().__init__()
        self.temperature = check_temperature('dkd', temperature)
        self.alpha = check_number('dkd', 'alpha', alpha, least=0.)
        self.beta = check_number('dkd', 'beta', beta, least=0.)
        self.warmup_epochs = check_number('dkd', 'warmup_epochs', warmup_epochs, least=0.)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.scale = min((epoch + 1) / self.warmup_epochs, 1.) if self.warmup_epochs else 1.

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = dkd_loss(student.logits, teacher.logits, target, self.alpha, self.beta, self.temperature)
        return {'dkd_loss': self.scale * loss}
