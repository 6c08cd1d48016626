"""Several teachers that speak with one voice."""
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ..errors import UserError
from .checks import full_precision
from .method import Output
from .teacher import Teacher


class TeacherEnsemble(nn.Module):
    """Several frozen teachers as one: the mean of their logits; stands wherever a `Teacher` does.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 1: the soft targets of an ensemble are the arithmetic or
    geometric mean of its members' predictions. Ours is the geometric one, because softmax(mean of z / T) is the
    normalised geometric mean of the softmax(z / T) at every temperature T, so that it is right whatever temperature a
    method has, and methods that take logits get logits. (You et al. 2017, "Learning from multiple teacher networks",
    take the arithmetic mean at one temperature.) A teacher with larger logits has more of a say.

    Features are given by a single teacher only: those of different networks have neither length nor axes in common.

    Args:
        teachers: `Teacher`s, or networks to make them of; each keeps its own input size, normalisation and dtype.

    Raises:
        UserError: No teacher, or heads with different numbers of classes.
    """

    def __init__(self, teachers: Sequence[nn.Module]):
        super().__init__()
        if not teachers:
            raise UserError('an ensemble needs at least one teacher')
        self.teachers = nn.ModuleList(t if isinstance(t, Teacher) else Teacher(t) for t in teachers)
        sizes = {t.num_classes for t in self.members if t.num_classes is not None}
        if len(sizes) > 1:
            raise UserError(
                f"the teachers' heads have {' and '.join(map(str, sorted(sizes)))} classes: they must share one label "
                'space')

    @property
    def members(self) -> list[Teacher]:
        """The teachers that speak."""
        return cast(list[Teacher], list(self.teachers))

    @property
    def num_classes(self) -> int | None:
        """Size of the label space, None if no teacher says."""
        return next((t.num_classes for t in self.members if t.num_classes is not None), None)

    @property
    def networks(self) -> list[nn.Module]:
        """The networks alone."""
        return [network for teacher in self.members for network in teacher.networks]

    def train(self, mode: bool = True) -> 'TeacherEnsemble':
        """Stays in eval mode, as a `Teacher` does."""
        return super().train(False)

    def check_label_space(self, num_classes: int) -> None:
        """Raise a UserError if a head has another number of classes."""
        for teacher in self.members:
            teacher.check_label_space(num_classes)

    def expect_input(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """State how arriving pixels are normalised; each teacher converts them to its own way."""
        for teacher in self.members:
            teacher.expect_input(mean, std)

    @torch.no_grad()
    def forward(self, input: torch.Tensor, needs_features: bool = False, exact: bool = False) -> Output:
        """Mean logits `[B, C]`, in float32 at least, of a batch `[B, channels, H, W]`; the options are a `Teacher`'s.

        Raises:
            UserError: Features are asked of several teachers.
        """
        if len(self.teachers) == 1:
            return self.teachers[0](input, needs_features, exact)
        if needs_features:
            raise UserError(
                'the features of several teachers have nothing in common: give one teacher, or a method that needs '
                'logits only')
        return Output(torch.stack([
            full_precision(teacher(input, exact=exact).logits) for teacher in self.teachers]).mean(0))
