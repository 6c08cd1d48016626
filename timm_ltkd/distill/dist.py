"""Distillation of relations, DIST (Huang et al. 2022)."""
import torch

from .checks import check_number, check_pair, check_temperature
from .kd import soft_log_probs
from .method import DistillMethod, Output, register_method

_FLAT = 1e-10  # variance, relative to the largest value squared, under which a vector has no relations to tell


def relation_distance(student_log_p: torch.Tensor, teacher_log_p: torch.Tensor, dim: int) -> torch.Tensor:
    """1 - Pearson correlation along `dim` of two matrices of probabilities that are given by their logs.

    Correlation does not change with scale, so each vector is scaled to a largest value of 1 first: that of a class
    which is improbable everywhere is not lost to rounding. A constant vector correlates with nothing: 1, no NaN.

    Args:
        student_log_p: `[B, C]`.
        teacher_log_p: `[B, C]`.
        dim: 1 for the classes of each sample, 0 for the samples of each class.

    Returns:
        `[B]` or `[C]`, from 0 to 2.
    """
    student, teacher = (_standardize(log_p, dim) for log_p in (student_log_p, teacher_log_p))
    return 1. - (student * teacher).mean(dim)


def _standardize(log_p: torch.Tensor, dim: int) -> torch.Tensor:
    p = (log_p - log_p.detach().amax(dim, keepdim=True)).exp()
    p = p - p.mean(dim, keepdim=True)
    return p * (p.square().mean(dim, keepdim=True) + _FLAT).rsqrt()


def dist_loss(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        beta: float = 2.,
        gamma: float = 2.,
        temperature: float = 4.,
) -> torch.Tensor:
    """T² · (β · inter-class + γ · intra-class relation distance) of softmax(z / T), each a mean.

    Source: Huang et al. 2022, arXiv 2205.10536. Inter-class: the distance between the rows of student and teacher, one
    a sample. Intra-class: between the columns, one a class, over the samples of the batch (of one process); a batch
    of one has no such relation, and it adds a constant.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`; the teacher gets no gradient.
        beta: β.
        gamma: γ.
        temperature: T > 0.

    Returns:
        Scalar, in float32 at least.
    """
    check_pair(student_logits, teacher_logits)
    student, teacher = (soft_log_probs(logits, temperature) for logits in (student_logits, teacher_logits.detach()))
    inter, intra = (relation_distance(student, teacher, dim).mean() for dim in (1, 0))
    return (beta * inter + gamma * intra) * temperature ** 2


@register_method('dist')
class DIST(DistillMethod):
    """Pearson correlation between and within classes instead of KL, DIST (Huang et al. 2022, arXiv 2205.10536).

    Args:
        temperature: Softens both distributions. The paper has 4 on CIFAR-100 and 1 on ImageNet.
        beta: Weight of the inter-class term.
        gamma: Weight of the intra-class term.
    """
    by_spread = True

    def __init__(self, *, temperature: float = 4., beta: float = 2., gamma: float = 2.):
        super().__init__()
        self.temperature = check_temperature('dist', temperature)
        self.beta = check_number('dist', 'beta', beta, least=0.)
        self.gamma = check_number('dist', 'gamma', gamma, least=0.)

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return {'dist_loss': dist_loss(student.logits, teacher.logits, self.beta, self.gamma, self.temperature)}
