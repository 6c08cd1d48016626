"""What options and tensors must be: a UserError of one line tells, and nothing here waits for the device."""
import numbers
from collections.abc import Sequence

import torch

from ..errors import UserError, nearest

_LARGEST = 1e30  # its inverse and products with it are float32 still
_LARGEST_SEED = 2**31 - 1
NO_LABEL = -2 ** 31  # for torch's `ignore_index`, whose -100 would pass over a wrong label


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
    return check_number(what, 'temperature', value, above=0., least=1e-6, most=1e6)


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


def check_scalar(what: str, name: str, value) -> None:
    """A UserError if what a loss or method returns is no scalar, to be added to others."""
    if not isinstance(value, torch.Tensor) or value.ndim:
        got = f'a tensor {list(value.shape)}' if isinstance(value, torch.Tensor) else f'a {type(value).__name__}'
        raise UserError(f'{what}: the {name} is {got}: return a scalar, its mean over the images')


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """float32 for half and bfloat16 tensors, others as they are: losses are never computed in less."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_pair(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> None:
    """A UserError if logits are not both `[B, C]`: those of one class or image would be repeated for all."""
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise UserError(
            f'the logits of the student are {list(student_logits.shape)} and those of the teacher '
            f'{list(teacher_logits.shape)}: give both as [images, classes], of the same images and classes')


def check_class_count(count: int, logits: torch.Tensor) -> None:
    """A UserError if a prior has not the classes of logits `[B, C]`.

    Args:
        count: For how many classes there are counts, weights, or what else was made of them.
        logits: `[B, C]`.
    """
    if count != logits.shape[1]:
        raise UserError(
            f'the prior has {count} classes and the logits {logits.shape[1]}: make it of the class counts of the data '
            'set that the networks are made for')


def check_labels(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Labels for logits `[B, C]`: class indices `[B]` as int64, or shares of the classes `[B, C]` as they are.

    Raises:
        UserError: They are neither.
    """
    if target.is_floating_point() and target.shape == logits.shape:
        return target
    if _are_indices(target, len(logits)):
        return target.long()
    hint = '; these may be one-hot: give their argmax(1)' if target.shape == logits.shape else ''
    raise UserError(
        f'labels {list(target.shape)} of {target.dtype} do not go with logits {list(logits.shape)}: give a class index '
        f'an image, integers [{len(logits)}], or floating shares of the classes, as many as logits{hint}')


def check_hard_labels(what: str, target: torch.Tensor, images: int) -> torch.Tensor:
    """Class indices `[B]` of so many images, as int64; a UserError if labels are anything else."""
    if not _are_indices(target, images):
        raise UserError(
            f'{what} needs one class index an image, integers [{images}], and got labels {list(target.shape)} of '
            f'{target.dtype}: leave out mixup, cutmix and soft labels, or choose another method')
    return target.long()


def _are_indices(target: torch.Tensor, images: int) -> bool:
    whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    return whole and target.shape == (images,)
