"""Labels of both kinds, class indices and shares of classes, as one thing."""
import torch

from ..checks import check_class_count, check_labels


def soft_labels(target: torch.Tensor, like: torch.Tensor, smoothing: float = 0.) -> torch.Tensor:
    """Labels as shares of the classes, (1 - ε) y + ε / C.

    Args:
        target: Class indices `[B]`, or shares `[B, C]`.
        like: `[B, C]`, gives C, dtype and device.
        smoothing: ε (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    Returns:
        `[B, C]`; each row sums to 1 (if that of `target` does).

    Raises:
        UserError: The labels are neither.
    """
    target = check_labels(target, like)
    if target.is_floating_point():
        shares = target.to(like)
    else:  # not F.one_hot, which may ask the device for the largest index
        shares = torch.zeros_like(like).scatter_(1, target.unsqueeze(1), 1.)
    return shares * (1. - smoothing) + smoothing / like.shape[1] if smoothing else shares


def mean_over_labels(
        losses: torch.Tensor,
        target: torch.Tensor,
        class_weights: torch.Tensor | None = None,
        smoothing: float = 0.,
) -> torch.Tensor:
    """Σ_i Σ_c y_ic ω_c ℓ_ic / Σ_i Σ_c y_ic ω_c: the weighted mean over labels, where a soft label counts by its shares.

    With class indices this is torch's weighted mean. That a mixed image has the mixed losses of its labels is how
    mixup's authors train (Zhang et al. 2018, arXiv 1710.09412), for any loss; dividing by the weights' own mix is our
    choice: it is what makes the two kinds of labels agree.

    Args:
        losses: ℓ `[B, C]`, the loss of image i if its label were c.
        target: Class indices `[B]`, or shares y `[B, C]`.
        class_weights: ω `[C]`; all 1 without them.
        smoothing: Label smoothing.

    Returns:
        Scalar.

    Raises:
        UserError: Labels that are neither, or weights of another number of classes.
    """
    shares = soft_labels(target, losses, smoothing)
    if class_weights is not None:
        check_class_count(class_weights.numel(), losses)
        shares = shares * class_weights.to(losses)
    return (shares * losses).sum() / shares.sum()
