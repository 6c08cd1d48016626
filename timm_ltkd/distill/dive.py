"""Distillation of virtual examples, DiVE (He et al. 2021)."""
import torch

from .checks import check_number, check_temperature, full_precision
from .kd import kd_loss
from .method import DistillMethod, Output, register_method


def dive_loss(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        temperature: float = 3.,
        power: float = 0.5,
) -> torch.Tensor:
    """T² · KL(q̃ ‖ softmax(z_s / T)) with q̃_c = q_c^power / Σ_j q_j^power and q = softmax(z_t / T), batch mean.

    Source: He et al. 2021, arXiv 2103.15042. A power under 1 makes the virtual examples, the mass that the teacher
    gives to each class, flatter, and so moves mass to the tail. q̃ is softmax(power · z_t / T), which is how it is
    computed: no tail class is lost to rounding. With power 1 it is `kd_loss`.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`; the teacher gets no gradient.
        temperature: T > 0, of both.
        power: Exponent of the teacher's probabilities, > 0.

    Returns:
        Scalar, in float32 at least.
    """
    return kd_loss(student_logits, power * full_precision(teacher_logits), temperature)


@register_method('dive')
class DiVE(DistillMethod):
    """KL from a teacher flattened by power and temperature, DiVE (He et al. 2021, arXiv 2103.15042).

    The paper's: temperature 3 and power 0.5 on CIFAR-100-LT, a teacher trained with balanced softmax, and
    (1 - w) · balanced softmax + w · this term with w = 0.5. Ours: the hard-label loss is the task's own choice and has
    weight 1, so that w = 0.5 is alpha = 1 up to a factor of 2 in the learning rate; for the paper's method give both
    trainings `--loss balanced_softmax`.

    Args:
        temperature: Softens both distributions.
        power: Flattens the teacher's further; 1 leaves it.
        alpha: Weight of the term.
    """

    def __init__(self, *, temperature: float = 3., power: float = 0.5, alpha: float = 1.):
        super().__init__()
        self.temperature = check_temperature('dive', temperature)
        self.power = check_number('dive', 'power', power, above=0.)
        self.alpha = check_number('dive', 'alpha', alpha, least=0.)

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = dive_loss(student.logits, teacher.logits, self.temperature, self.power)
        return {'dive_loss': self.alpha * loss}
