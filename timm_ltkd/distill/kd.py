"""Plain knowledge distillation (Hinton et al. 2015)."""
import torch
import torch.nn.functional as F

from .checks import check_number, check_temperature, full_precision
from .closed_form import softened_kl
from .method import DistillMethod, Output, register_method


def kd_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 4.) -> torch.Tensor:
    """T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)), mean over the batch.

    Source: Hinton et al. 2015, arXiv 1503.02531. The teacher gets no gradient.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`.
        temperature: T > 0.

    Returns:
        Scalar, in float32 at least.
    """
    return softened_kl(student_logits, teacher_logits, temperature).mean() * temperature


def soft_log_probs(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """log softmax(z / T) of `[B, C]`, in float32 at least."""
    return F.log_softmax(full_precision(logits) / temperature, dim=1)


def row_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(q ‖ p) of each row `[B]`, of two matrices of log-probabilities `[B, C]`."""
    return F.kl_div(log_p, log_q, reduction='none', log_target=True).sum(dim=1)


@register_method('kd')
class KD(DistillMethod):
    """α · T² · KL between softened teacher and student (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        temperature: Softens both distributions.
        alpha: Weight of the term.
    """

    def __init__(self, *, temperature: float = 4., alpha: float = 1.):
        super().__init__()
        self.temperature = check_temperature('kd', temperature)
        self.alpha = check_number('kd', 'alpha', alpha, least=0.)

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return {'kd_loss': self.alpha * kd_loss(student.logits, teacher.logits, self.temperature)}
