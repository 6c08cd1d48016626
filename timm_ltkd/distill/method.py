"""What a distillation method is, and the register of all of them."""
import inspect
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError, nearest
from ..prior import ClassPrior
from .output import Output


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """float32 for half and bfloat16 tensors, others as they are: losses are never computed in less."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


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
    """
    needs_features = False
    uses_logits = True
    needs_hard_labels = False
    corrects_prior = False
    needs_class_means = False

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
    def register(cls: type[DistillMethod]) -> type[DistillMethod]:
        if name in _METHODS and _METHODS[name] is not cls:
            raise ValueError(f"a distillation method '{name}' is registered already")
        _METHODS[name] = cls
        return cls
    return register


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_METHODS)


def describe_methods() -> dict[str, str]:
    """What each registered method is, in one line with the paper: the first line of its docstring; sorted by name."""
    return {name: (inspect.getdoc(_METHODS[name]) or '').partition('\n')[0] for name in list_methods()}


def method_options(name: str) -> list[str]:
    """The options that the method `name` has, beside what it is told of data and networks.

    Raises:
        UserError: Unknown method (the nearest is named).
    """
    method = method_class(name)
    return _options(method, ('standardize',) if method.uses_logits else ())


def method_class(name: str) -> type[DistillMethod]:
    """What is registered as the method `name`; a UserError (with the nearest) if nothing is."""
    if name not in _METHODS:
        raise UserError(f"unknown distillation method '{name}'{nearest(name, _METHODS)}")
    return _METHODS[name]


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
        standardize: Let the method see z-scored logits, see `StandardizedLogits`.
        **kwargs: Options of the method.

    Raises:
        UserError: Unknown method or option (the nearest is named), something needed and missing, or standardised
            logits for a method that looks at no logits.
    """
    what, method = f"method '{name}'", method_class(name)
    if check_flag(what, 'standardize', standardize) and not method.uses_logits:
        raise UserError(f'{what} compares features and looks at no logits: leave standardize out')
    made = call_with_known(
        method, what, prior, kwargs, student_features=student_features, teacher_features=teacher_features,
        also=('standardize',) if method.uses_logits else ())
    return StandardizedLogits(made) if standardize else made


_MISSING = {
    'prior': 'balances by class: pass prior=ClassPrior(class counts of the training set)',
    'student_features': 'compares features: pass student_features=feature_dim(student)',
    'teacher_features': 'compares features: pass teacher_features=feature_dim(teacher)',
}


def _options(factory, also: tuple[str, ...]) -> list[str]:
    """Parameters of a factory that are no context, and those that are handled by its caller."""
    return [*(key for key in inspect.signature(factory).parameters if key not in _MISSING), *also]


def call_with_known(
        factory,
        what: str,
        prior: ClassPrior | None,
        kwargs: dict,
        *,
        student_features: int | None = None,
        teacher_features: int | None = None,
        also: tuple[str, ...] = (),
):
    """Call a factory with keyword options, and with what is known of data and networks where it asks for that.

    Args:
        factory: A class or function; its parameters say what it takes.
        what: Its name in messages.
        prior: Class prior of the training set.
        kwargs: Options, checked against the parameters; a wrong one names the valid ones.
        student_features: Length of the student's pooled features.
        teacher_features: Length of the teacher's.
        also: Options that are handled by the caller, for the hint.

    Raises:
        UserError: Unknown option, or something that the factory needs is None.
    """
    context = {'prior': prior, 'student_features': student_features, 'teacher_features': teacher_features}
    parameters, options = inspect.signature(factory).parameters, _options(factory, also)
    for key in kwargs:
        if key not in options:
            raise UserError(f"{what} has no option '{key}'{nearest(key, options)}")
    asked = {key: value for key, value in context.items() if key in parameters}
    for key, value in asked.items():
        if value is None and parameters[key].default is inspect.Parameter.empty:
            raise UserError(f'{what} {_MISSING[key]}')
    return factory(**asked, **kwargs)


_LARGEST = 1e30  # its inverse and products with it are float32 still
_LARGEST_SEED = 2**31 - 1


def _is_number(value) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and value == value and abs(value) != float('inf')


def check_number(
        what: str,
        name: str,
        value,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
) -> float:
    """An option as a float; a UserError if it is no number or out of range."""
    if not _is_number(value):
        raise UserError(f"{what}: {name} must be a number, got {value!r}")
    if abs(value) > _LARGEST:
        raise UserError(f'{what}: {name} cannot be larger than {_LARGEST:g}')
    if above is not None and not value > above:
        raise UserError(f'{what}: {name} must be above {above:g}, got {value}')
    if least is not None and not value >= least:
        raise UserError(f'{what}: {name} must be at least {least:g}, got {value}')
    if most is not None and not value <= most:
        raise UserError(f'{what}: {name} must be at most {most:g}, got {value}')
    return float(value)


def check_temperature(what: str, value) -> float:
    """A temperature whose square and inverse are ordinary numbers; a UserError if it is none."""
    check_number(what, 'temperature', value, above=0.)
    return check_number(what, 'temperature', value, least=1e-6, most=1e6)


def check_seed(what: str, value) -> int:
    """A whole number from 0 to 2**31 - 1; a UserError if it is anything else."""
    seed = check_number(what, 'seed', value, least=0, most=_LARGEST_SEED)
    if seed != int(seed):
        raise UserError(f'{what}: seed must be a whole number, got {value}')
    return int(seed)


def check_choice(what: str, name: str, value, choices: Sequence[str]) -> str:
    """An option that is one of some names; a UserError (with the nearest) if it is none of them."""
    if value not in choices:
        raise UserError(f"{what}: {name} cannot be {value!r}{nearest(value, choices)}")
    return value


def check_flag(what: str, name: str, value) -> bool:
    """An option that is on or off; a UserError if it is anything else."""
    if not isinstance(value, bool):
        raise UserError(f'{what}: {name} must be True or False, got {value!r}')
    return value


def check_hard_labels(what: str, target: torch.Tensor) -> None:
    """A UserError if labels are not class indices `[B]`."""
    if target.ndim != 1 or target.is_floating_point():
        raise UserError(
            f'{what} needs one class index an image, got labels of shape {list(target.shape)} and {target.dtype}: '
            'leave out mixup and cutmix, or choose another method')
