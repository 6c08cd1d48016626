"""KL of softened logits, with its gradient in closed form: few passes, nothing else kept."""
import math
from collections.abc import Callable
from functools import partial

import torch

from ..errors import UserError
from .checks import check_class_count, check_pair

_AT_A_TIME = 2 ** 19  # numbers of a matrix that a CPU works on, 2 MB in float32; as fast as more, and fewer are slower
_LOG2_E = 1 / math.log(2)

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # loss [B], g [B, C] and s [B]: the gradient is s · g


def softened_kl(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        temperature: float,
        log_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """T · KL(q' ‖ p) of each row, with p = softmax(z_s / T) and q' = softmax(z_t / T + log ω).

    The factor T makes its gradient p - q'. The teacher gets none, and the gradient has none of its own.

    Args:
        student_logits: z_s `[B, C]`.
        teacher_logits: z_t `[B, C]`.
        temperature: T > 0.
        log_weights: log ω `[C]`; a constant added to it does not matter. None is 0.

    Returns:
        `[B]`, in float32 at least.

    Raises:
        UserError: Shapes that don't belong together.
    """
    check_pair(student_logits, teacher_logits)
    dtype = torch.promote_types(_full_dtype(student_logits), _full_dtype(teacher_logits))
    if log_weights is None:
        shift = torch.zeros(1, dtype=dtype, device=student_logits.device)
    else:
        check_class_count(log_weights.numel(), student_logits)
        shift = log_weights.to(student_logits.device, dtype)
    function = kl_parts_in_cache if student_logits.device.type == 'cpu' else kl_parts
    return _WithGradient.apply(
        partial(function, teacher_logits=teacher_logits.detach(), shift=shift, temperature=temperature), student_logits)


class _WithGradient(torch.autograd.Function):
    """The loss of each row `[B]` of logits `[B, C]` by a function that gives its gradient with it.

    The gradient is scaled in place where it is asked for, and given away; asked again, it is computed again.
    """

    @staticmethod
    def forward(ctx, function: Callable[[torch.Tensor], Parts], logits: torch.Tensor) -> torch.Tensor:
        loss, *ctx.gradient = function(logits)
        ctx.function = function
        ctx.save_for_backward(logits)
        return loss

    @staticmethod
    def backward(ctx, of_rows: torch.Tensor) -> tuple[None, torch.Tensor]:
        if torch.is_grad_enabled():
            raise UserError('a loss that comes with its gradient has no second derivative: leave out create_graph=True')
        logits, = ctx.saved_tensors
        gradient, scale = ctx.gradient or ctx.function(logits)[1:]
        ctx.gradient = None
        of_rows = of_rows if scale is None else of_rows * scale
        return None, gradient.mul_(of_rows.unsqueeze(1)).to(logits.dtype)


def kl_parts(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        shift: torch.Tensor,
        temperature: float,
) -> Parts:
    """`softened_kl` and its gradient, with log ω or a zero `[1]` as `shift`, which decides on the dtype."""
    log_q = torch.add(shift, teacher_logits, alpha=1 / temperature).log_softmax(1)
    log_p = torch.add(shift.new_zeros(1), student_logits, alpha=1 / temperature).log_softmax(1)
    q, p = log_q.exp(), log_p.exp()
    return (q * log_q.sub_(log_p)).sum(1).mul_(temperature), p.sub_(q), None


def kl_parts_in_cache(
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        shift: torch.Tensor,
        temperature: float,
) -> Parts:
    """`kl_parts` for a CPU: some rows at a time, so that what is between stays in its cache, and in powers of two.

    Those take a third of the time of powers of e.

    With softened logits a and b of teacher and student, the largest of each row taken off, in units of log 2:
    KL / log 2 = Σ 2^a (a - b) / Σ 2^a - log2 Σ 2^a + log2 Σ 2^b, and p - q = (2^b - 2^a Σ 2^b / Σ 2^a) / Σ 2^b.
    """
    unit, gradient = _LOG2_E / temperature, shift.new_empty(student_logits.shape)
    sum_q, sum_p, dot = sums = shift.new_empty(3, len(gradient))
    shift, rows = shift * _LOG2_E, max(1, _AT_A_TIME // gradient.shape[1])
    between = shift.new_empty(3, min(rows, len(gradient)), gradient.shape[1])
    for student, teacher, p, (sum_q_, sum_p_, dot_) in zip(
            *(x.split(rows) for x in (student_logits, teacher_logits, gradient)), sums.split(rows, 1), strict=True):
        a, b, q = between[:, :len(p)]
        torch.add(shift, teacher, alpha=unit, out=a)
        a.sub_(a.amax(1, keepdim=True))
        torch.sum(torch.exp2(a, out=q), 1, out=sum_q_)
        torch.sub(student, student.amax(1, keepdim=True).to(b.dtype), out=b).mul_(unit)  # the largest is exactly 0
        torch.sum(torch.exp2(b, out=p), 1, out=sum_p_)
        torch.sum(a.sub_(b).mul_(q), 1, out=dot_)
        p.addcmul_(q, (sum_p_ / sum_q_).unsqueeze(1), value=-1)
    loss = dot.div_(sum_q) - sum_q.log2_() + sum_p.log2()
    return loss.mul_(temperature / _LOG2_E), gradient, sum_p.reciprocal_()


def _full_dtype(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
