"""Long-tailed knowledge distillation, LTKD (Kim 2026)."""
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..errors import UserError
from ..prior import ClassPrior
from .checks import check_class_count, check_flag, check_number, check_pair, check_temperature
from .kd import row_kl, soft_log_probs
from .method import DistillMethod, Output, register_method


def class_thirds(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices of the head, medium and tail classes: a third of the classes each, by count, ties by index.

    Head and tail have C // 3 classes and the middle has the rest: 33, 34 and 33 of 100, as in the paper.

    Args:
        counts: Training images of each class `[C]`.

    Raises:
        UserError: Fewer than 3 classes.
    """
    classes = len(counts)
    if classes < 3:
        raise UserError(f'ltkd splits the classes in head, medium and tail, so it needs 3 or more; there are {classes}')
    third = classes // 3
    order = torch.argsort(counts, descending=True, stable=True)
    return order.split([third, classes - 2 * third, third])


def grouped_kl(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        groups: Sequence[torch.Tensor],
        temperature: float = 4.,
        rebalance: bool = True,
        reweight: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of KL(q ‖ p), q = softmax(z_t / T) and p = softmax(z_s / T): across groups of classes, and within.

    Source: Kim 2026, arXiv 2506.18496. With Q_g and P_g the masses of group g, KL(q ‖ p) = KL(Q ‖ P) + Σ_g Q_g KL_g,
    where KL_g is among the classes of g. To undo the teacher's bias to the head,

    - `rebalance` scales Q so that all groups have the same mass over the batch (of one process), and normalises it
      again in each sample;
    - `reweight` gives all KL_g the same weight instead of Q_g; it is 1 / number of groups (ours), what Q_g is on
      average in a balanced teacher.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`; the teacher gets no gradient.
        groups: Class indices of each group; every class in one.
        temperature: T > 0.
        rebalance: Off: the teacher's own group masses.
        reweight: Off: the natural weights. With both off the parts sum to KL.

    Returns:
        Two scalars, batch means without T²: across, and within.

    Raises:
        UserError: Logits of different shapes, or groups of more or fewer classes than they have, or that are masks.
    """
    check_pair(student_logits, teacher_logits)
    if any(group.dtype == torch.bool for group in groups):
        raise UserError('groups are indices of classes, and these are masks: give mask.nonzero().flatten() of each')
    check_class_count(sum(len(group) for group in groups), student_logits)
    log_p, log_q = soft_log_probs(student_logits, temperature), soft_log_probs(teacher_logits.detach(), temperature)
    parts_p, parts_q = ([x[:, group] for group in groups] for x in (log_p, log_q))
    mass_p, mass_q = (torch.stack([part.logsumexp(dim=1) for part in x], dim=1) for x in (parts_p, parts_q))
    within = torch.stack([
        row_kl(F.log_softmax(p, dim=1), F.log_softmax(q, dim=1)) for p, q in zip(parts_p, parts_q, strict=True)], dim=1)
    weights = torch.full_like(mass_q, 1 / len(groups)) if reweight else mass_q.exp()
    if rebalance:
        batch_mass = mass_q.logsumexp(dim=0) - math.log(len(mass_q))
        mass_q = F.log_softmax(mass_q - batch_mass, dim=1)
    return row_kl(mass_p, mass_q).mean(), (weights * within).sum(dim=1).mean()


def ltkd_loss(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        groups: Sequence[torch.Tensor],
        alpha: float = 1.,
        beta: float = 1.,
        temperature: float = 4.,
        rebalance: bool = True,
        reweight: bool = True,
) -> torch.Tensor:
    """T² · (α · cross-group KL + β · within-group KL), batch mean.

    Source: Kim 2026, arXiv 2506.18496; see `grouped_kl` for the parts and the arguments.

    Returns:
        Scalar, in float32 at least.
    """
    cross, within = grouped_kl(student_logits, teacher_logits, groups, temperature, rebalance, reweight)
    return (alpha * cross + beta * within) * temperature ** 2


@register_method('ltkd')
class LTKD(DistillMethod):
    """α · rebalanced KL across head/medium/tail + β · equal KL within each, LTKD (Kim 2026, arXiv 2506.18496).

    The values of temperature, alpha and beta are ours, those of plain distillation: tune them.

    Args:
        prior: Class prior of the training set, which orders the classes.
        temperature: Softens both distributions.
        alpha: Weight of the cross-group part.
        beta: Weight of the within-group part, a mean of three.
        rebalance: Give the teacher's groups the same mass over the batch.
        reweight: Give the three within-group terms the same weight.
    """
    head: torch.Tensor
    medium: torch.Tensor
    tail: torch.Tensor

    def __init__(
            self,
            *,
            prior: ClassPrior,
            temperature: float = 4.,
            alpha: float = 1.,
            beta: float = 1.,
            rebalance: bool = True,
            reweight: bool = True,
    ):
        super().__init__()
        self.temperature = check_temperature('ltkd', temperature)
        self.alpha = check_number('ltkd', 'alpha', alpha, least=0.)
        self.beta = check_number('ltkd', 'beta', beta, least=0.)
        self.rebalance = check_flag('ltkd', 'rebalance', rebalance)
        self.reweight = check_flag('ltkd', 'reweight', reweight)
        self.corrects_prior = self.rebalance
        for name, group in zip(('head', 'medium', 'tail'), class_thirds(prior.counts), strict=True):
            self.register_buffer(name, group, persistent=False)

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return {'ltkd_loss': ltkd_loss(
            student.logits, teacher.logits, (self.head, self.medium, self.tail), self.alpha, self.beta,
            self.temperature, self.rebalance, self.reweight)}
