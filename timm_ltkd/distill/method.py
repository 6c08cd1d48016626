"""What a distillation method is, and the register of all of them."""
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from ..prior import ClassPrior
from .checks import check_flag, full_precision
from .output import Output
from .register import describe, enter, look_up, make, options_of


def given_features(output: Output) -> torch.Tensor:
    """The features of an output, in float32 at least; a UserError if it has none."""
    if output.features is None:
        raise UserError('this method compares features, and an Output has logits alone; see model_output')
    return full_precision(output.features)


class DistillMethod(nn.Module):
    """How a student learns from a teacher.

    `forward(student, teacher, target)` takes two `Output`s and the labels `[B]` and returns the distillation terms by
    name, scalars that are already weighted; the task adds its hard-label criterion. A method may own parameters.

    Attributes:
        needs_features: Whether `Output.features` must be given.
        uses_logits: Whether it looks at logits at all.
        needs_hard_labels: Whether labels must be class indices, which mixup and cutmix don't give.
        corrects_prior: Whether it makes up for the class frequencies, as class-balanced sampling does.
        needs_class_means: Whether `set_class_means` must be called before training.
        separate: Whether `teacher` is a tuple with an output of each of several, see `SeveralMethods`.
        by_spread: Whether it looks at logits in units of their own spread, so that its slope has no bound where a
            student's are all equal.
        standardized: Of methods that correct logits, or weigh samples by them: whether they z-score what they compare,
            which they do afterwards, since a correction is in units of the plain logits. None of all others, which
            `StandardizedLogits` does it for.
    """
    standardized: bool | None = None
    needs_features = False
    uses_logits = True
    needs_hard_labels = False
    corrects_prior = False
    needs_class_means = False
    separate = False
    by_spread = False

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0; a method with a schedule acts on it."""

    def set_class_means(self, means: torch.Tensor) -> None:
        """Told once the mean `[C, D]` of the teacher's features over the training images of each class.

        What is made of it goes into the state dict, so that a resumed run is not told again.
        """

    def statistics(self) -> dict[str, torch.Tensor]:
        """Sums over the images seen since `reset_statistics`, which can be added over processes; empty for most."""
        return {}

    def reset_statistics(self) -> None:
        """Start the sums of `statistics` anew."""

    def describe_statistics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """What added statistics say: figures by name and group, and as `inert` the parts that did next to nothing."""
        return {}

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        raise NotImplementedError


class StandardizedLogits(DistillMethod):
    """Any method on logits that are z-scored per sample: the student learns relations, not the teacher's scale.

    Source: Sun et al. 2024, arXiv 2403.01427: (z - mean(z)) / std(z) over the classes, of student and teacher alike,
    before the temperature. The hard-label criterion keeps the plain logits.

    Args:
        method: What learns from the standardised logits.
    """
    by_spread = True

    def __init__(self, method: DistillMethod):
        super().__init__()
        self.method = method
        self.needs_features = method.needs_features
        self.needs_hard_labels = method.needs_hard_labels
        self.corrects_prior = method.corrects_prior
        self.needs_class_means = method.needs_class_means

    def set_epoch(self, epoch: int) -> None:
        self.method.set_epoch(epoch)

    def set_class_means(self, means: torch.Tensor) -> None:
        self.method.set_class_means(means)

    def statistics(self) -> dict[str, torch.Tensor]:
        return self.method.statistics()

    def reset_statistics(self) -> None:
        self.method.reset_statistics()

    def describe_statistics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        return self.method.describe_statistics(sums)

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        student, teacher = (output._replace(logits=standardize_logits(output.logits)) for output in (student, teacher))
        return self.method(student, teacher, target)


def standardize_logits(logits: torch.Tensor) -> torch.Tensor:
    """Logits `[B, C]` with mean 0 and standard deviation 1 in each row; equal logits become zeros."""
    return F.layer_norm(full_precision(logits), logits.shape[-1:], eps=1e-7)


_METHODS: dict[str, type[DistillMethod]] = {}


def register_method(name: str):
    """Class decorator: make a `DistillMethod` known under `name`."""
    return enter(_METHODS, 'distillation method', name, DistillMethod)


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_METHODS)


def describe_methods() -> dict[str, str]:
    """What each registered method is, in one line with the paper: the first line of its docstring; sorted by name."""
    return describe(_METHODS)


def method_options(name: str) -> list[str]:
    """The options that the method `name` has, beside what it is told of data and networks.

    Raises:
        UserError: Unknown method (the nearest is named).
    """
    method = method_class(name)
    return options_of(method) + (['standardize'] if method.uses_logits else [])


def method_class(name: str) -> type[DistillMethod]:
    """What is registered as the method `name`; a UserError (with the nearest) if nothing is."""
    return look_up(_METHODS, name, f"unknown distillation method '{name}'")


def create_method(
        name: str,
        *,
        prior: ClassPrior | None = None,
        student_features: int | None = None,
        teacher_features: int | None = None,
        standardize: bool = False,
        **kwargs,
) -> DistillMethod:
    """Make the method `name` for a training set with this class prior and networks with these features.

    Args:
        name: One of `list_methods()`.
        prior: Class prior of the training set; methods that balance by class need it.
        student_features: Length of the student's pooled features, see `feature_dim`; methods on features need both.
        teacher_features: The same of the teacher.
        standardize: Let the method compare z-scored logits, see `StandardizedLogits`.
        **kwargs: Options of the method.

    Raises:
        UserError: Unknown method or option (the nearest is named), something needed and missing, or standardised
            logits for a method that looks at no logits, or of two classes.
    """
    what, method = f"method '{name}'", method_class(name)
    if check_flag(what, 'standardize', standardize) and not method.uses_logits:
        raise UserError(f'{what} compares features and looks at no logits: leave standardize out')
    context = {'prior': prior, 'student_features': student_features, 'teacher_features': teacher_features}
    made = make(method, what, kwargs, context, method_options(name))
    if not standardize:
        return made
    if prior is not None and prior.num_classes == 2:
        raise UserError(f'{what}: the z-scores of two logits are 1 and -1 whatever they are: leave standardize out')
    if made.standardized is None:
        return StandardizedLogits(made)
    made.standardized = made.by_spread = True
    return made
