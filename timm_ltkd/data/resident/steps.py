"""A transform taken apart: what is done to each image once, and what anew whenever it is shown."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.data.random_erasing import RandomErasing
from timm.data.transforms import (
    CenterCropOrPad,
    MaybeToTensor,
    RandomCropOrPad,
    RandomResizedCropAndInterpolation,
    ResizeKeepRatio,
    str_to_interp_mode,
)
from torchvision import transforms

from ...errors import UserError
from .erasing import Erasing
from .padded_crop import PaddedCrop
from .resized_crop import KeptRatio, RandomBox, ResampledCrop, filter_names


@dataclass(frozen=True)
class Steps:
    """What a transform does: `fixed` once to each image, then crop, normalisation and erasing whenever it is shown."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fixed: list
    crop: PaddedCrop | ResampledCrop
    erasing: Erasing | None

    @property
    def random(self) -> bool:
        """Whether anything is drawn when an image is shown."""
        return self.crop.random or self.erasing is not None


def take_apart(transform, *, side: int | None = None) -> Steps:
    """The steps of a transform, if resident images can go through them.

    They can resize and crop at the centre (once), be cropped at random (padded, or resized), flipped, normalised, and
    erased at random.

    Args:
        transform: From `create_train_transform` or `create_eval_transform`.
        side: For crops that resize: images are kept in memory as squares of so many pixels, resized and cropped at the
            centre; those of a data set that has one size only are kept as they are if it is None.

    Raises:
        UserError: A step that is not among them, or not in this order (names it), or a `side` that has no meaning.
    """
    found = dict(fixed=[], crop=[], erasing=None)
    expected = [
        (_is_fixed, found['fixed'].append),
        (_is_crop, found['crop'].append),
        (_a(transforms.RandomHorizontalFlip), lambda step: found.update(hflip=step.p)),
        (_a(transforms.RandomVerticalFlip), lambda step: found.update(vflip=step.p)),
        (_a(transforms.Grayscale), found['fixed'].append),  # of each pixel alone, so that the order does not matter
        (_a(MaybeToTensor, transforms.ToTensor), lambda step: None),
        (_a(transforms.Normalize), lambda step: found.update(mean=_floats(step.mean), std=_floats(step.std))),
        (_a(RandomErasing), lambda step: found.update(erasing=Erasing.of(step))),
    ]
    at = 0
    for step in getattr(transform, 'transforms', [transform]):
        place = next((i for i in range(at, len(expected)) if expected[i][0](step)), None)
        if place is None:
            raise UserError(
                f'images in memory cannot go through {type(step).__name__}; leave it out, or use --loader timm')
        expected[place][1](step)
        at = place
    if 'mean' not in found:
        raise UserError('images in memory must be normalised')
    flips = {key: found.pop(key) for key in ('hflip', 'vflip') if key in found}
    crop = found['crop'] = _crop(found['crop'], flips)
    if side is not None:
        found['fixed'] += _squared(crop, side)
    return Steps(**found)


def _a(*kinds: type) -> Callable[[Any], bool]:
    return lambda step: isinstance(step, kinds)


def _is_fixed(step) -> bool:
    """Whether it does the same to an image whenever it is shown."""
    if isinstance(step, ResizeKeepRatio):
        return not (step.random_scale_prob or step.random_aspect_prob or isinstance(step.interpolation, tuple))
    return isinstance(step, (transforms.Resize, transforms.CenterCrop, CenterCropOrPad))


def _is_crop(step) -> bool:
    return isinstance(step, (
        transforms.RandomCrop, RandomResizedCropAndInterpolation, ResizeKeepRatio, CenterCropOrPad, RandomCropOrPad))


def _crop(steps: list, flips: dict[str, float]) -> PaddedCrop | ResampledCrop:
    """What one crop, or one that timm makes in two steps, does to a whole batch."""
    match steps:
        case []:
            return PaddedCrop(**flips)
        case [transforms.RandomCrop() as step]:
            return PaddedCrop(tuple(step.size), _padding(step), **flips)
        case [RandomResizedCropAndInterpolation() as step]:
            box = RandomBox(_range(step.scale), _range(step.ratio))
            return ResampledCrop(tuple(step.size), box, filter_names(step.interpolation), **flips)
        case [ResizeKeepRatio() as step, (CenterCropOrPad() | RandomCropOrPad()) as last] if _covers(step, last):
            part = KeptRatio(
                _range(step.random_scale_range), _range(step.random_aspect_range),
                (step.random_scale_prob, step.random_aspect_prob), centred=isinstance(last, CenterCropOrPad))
            return ResampledCrop(tuple(step.size), part, filter_names(step.interpolation), **flips)
    names = ' and '.join(type(step).__name__ for step in steps)
    raise UserError(f'images in memory cannot go through {names} as they are set; use --loader timm')


def _covers(step: ResizeKeepRatio, last: CenterCropOrPad | RandomCropOrPad) -> bool:
    """Whether two steps are those that `KeptRatio` knows."""
    return (
        step.longest == 0 and step.random_scale_area and last.padding_mode == 'reflect'
        and tuple(step.size) == tuple(last.size))


def _squared(crop: PaddedCrop | ResampledCrop, side: int) -> list:
    """What makes squares of images of any size."""
    if not crop.resamples:
        raise UserError('a size of images in memory is for crops that resize them; leave out --resident-size')
    if side < 1:
        raise UserError(f'images in memory need a size of at least 1 pixel, got {side}')
    mode = str_to_interp_mode(crop.filters[0] if len(crop.filters) == 1 else 'bicubic')
    return [transforms.Resize(side, interpolation=mode), transforms.CenterCrop(side)]


def _padding(step: transforms.RandomCrop) -> int:
    if not isinstance(step.padding or 0, int) or step.fill != 0 or step.padding_mode != 'constant':
        raise UserError('images in memory are padded with black, by the same on each side; use --loader timm')
    return step.padding or 0


def _range(ends) -> tuple[float, float]:
    return float(ends[0]), float(ends[1])


def _floats(values) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
