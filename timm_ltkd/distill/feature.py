"""Distillation of pooled features."""
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from .checks import check_number, check_seed, full_precision
from .method import DistillMethod, Output, given_features, register_method


def feature_loss(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two batches of features.

    Source: Romero et al. 2015, arXiv 1412.6550 (hints), on the pooled features, as timm's `FeatureDistillationTask`.

    Args:
        student_features: `[B, D]`, projected to the teacher's length where it differs.
        teacher_features: `[B, D]`; the teacher gets no gradient.

    Returns:
        Scalar, in float32 at least.

    Raises:
        UserError: Different shapes.
    """
    if student_features.shape != teacher_features.shape:
        raise UserError(
            f'features of student and teacher are compared one by one, but their shapes are '
            f'{list(student_features.shape)} and {list(teacher_features.shape)}: project the student\'s first')
    return F.mse_loss(full_precision(student_features), full_precision(teacher_features.detach()))


def linear_projector(in_features: int, out_features: int, *, seed: int = 0) -> nn.Linear:
    """A linear layer that starts as torch's do, but from a generator of its own, and without bias values.

    So it does not depend on what was made before it, e.g. on whether the teacher was trained in the same run.
    """
    layer = nn.utils.skip_init(nn.Linear, in_features, out_features, device='cpu')  # whatever the default is
    nn.init.kaiming_uniform_(layer.weight, a=5 ** 0.5, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    return layer.to(torch.get_default_device())


@register_method('feature')
class Feature(DistillMethod):
    """α · mean squared error of pooled features, projected if lengths differ (Romero et al. 2015, arXiv 1412.6550).

    The projector is trained with the student and is no part of the exported network.

    Args:
        student_features: Length of the student's pooled features.
        teacher_features: Length of the teacher's.
        alpha: Weight of the term.
        seed: Where the projector starts.
    """
    needs_features = True
    uses_logits = False

    def __init__(self, *, student_features: int, teacher_features: int, alpha: float = 1., seed: int = 0):
        super().__init__()
        self.alpha = check_number('feature', 'alpha', alpha, least=0.)
        seed = check_seed('feature', seed)
        same = student_features == teacher_features
        self.projector = nn.Identity() if same else linear_projector(student_features, teacher_features, seed=seed)

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        projected = self.projector(given_features(student))
        return {'feature_loss': self.alpha * feature_loss(projected, given_features(teacher))}
