"""From an image to the network's input: timm's transforms, and the padded crop of the CIFAR recipe."""
import math
from collections.abc import Sequence

from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from timm.data.transforms import MaybeToTensor, str_to_interp_mode
from torchvision import transforms
from torchvision.transforms import functional as F

from ..errors import UserError, nearest

CROP_MODES = ('rrc', 'rkrc', 'rkrr', 'pad')
EVAL_CROP_MODES = ('center', 'squash', 'border')
ERASE_MODES = ('const', 'rand', 'pixel')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')


def create_train_transform(
        *,
        input_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        crop_mode: str = 'rrc',
        crop_padding: int = 4,
        scale: Sequence[float] | None = None,
        ratio: Sequence[float] | None = None,
        hflip: float = 0.5,
        vflip: float = 0.,
        color_jitter: float | Sequence[float] | None = None,
        aa: str | None = None,
        reprob: float = 0.,
        remode: str = 'pixel',
        recount: int = 1,
        interpolation: str = 'random',
        no_aug: bool = False,
        drawn_for: Sequence[int] | None = None,
) -> transforms.Compose:
    """timm's training transform; with `crop_mode='pad'` the crop of the CIFAR recipe in place of its first step.

    That recipe (He et al. 2016, section 4.2) pads each side, crops a window of the input size and flips; images that
    have the input size already are not interpolated.

    Args:
        input_size: (channels, height, width), (height, width) or one side, in pixels. Of one channel: images are made
            grey after all steps but normalisation and random erasing.
        mean, std: Of the normalisation, per channel, for values from 0 to 1.
        crop_mode: 'rrc' random resized crop; 'rkrc', 'rkrr' resize keeping the ratio, then a centre or random crop;
            'pad' resize where needed, pad, then a random crop.
        crop_padding: Pixels on each side, for 'pad'.
        scale, ratio: Range of the area and aspect ratio, not for 'pad'; None as timm has it for the mode.
        hflip, vflip: Probability of a flip.
        color_jitter: Strength, or (brightness, contrast, saturation[, hue]); None for none.
        aa: timm's AutoAugment string, such as 'rand-m9-mstd0.5-inc1'; colour jitter is then off, as in timm.
        reprob, remode, recount: Random erasing: probability, 'const', 'rand' or 'pixel' filling, largest number.
        interpolation: Of resizing; 'random' draws bilinear or bicubic where the mode resizes at random.
        no_aug: Only resize, centre crop and normalise.
        drawn_for: Another size, (…, height, width): given the same random draws as a transform of that size, this one
            shows the same part of an image, augmented alike; see `TwoViews`.

    Raises:
        UserError: A value out of its range, or something whose draws mean another thing at another size.
    """
    size = _checked_size(input_size)
    _check_normalisation(mean, std)
    _check_choice('crop mode', crop_mode, CROP_MODES)
    _check_choice('random erasing mode', remode, ERASE_MODES)
    _check_choice('interpolation', interpolation, ('random', *INTERPOLATIONS))
    for name, value in (('hflip', hflip), ('vflip', vflip), ('reprob', reprob)):
        if not 0 <= value <= 1:
            raise UserError(f'{name} is a probability, from 0 to 1, got {value}')
    for name, value in (('scale', scale), ('ratio', ratio)):
        _check_range(name, value, crop_mode)
    if crop_padding < 0:
        raise UserError(f'crop padding must be 0 or more pixels, got {crop_padding}')
    if recount < 1:
        raise UserError(f'random erasing needs a count of at least 1, got {recount}')
    color_jitter = _checked_color_jitter(color_jitter)

    options = dict(
        input_size=size,
        is_training=True,
        interpolation=interpolation,
        mean=tuple(mean),
        std=tuple(std),
    )
    if aa and _channels(input_size) == 1:
        raise UserError(f"auto-augmentation '{aa}' works on colours, and the network takes grey images; leave it out")
    if no_aug:
        return _with_channels(create_transform(**options, no_aug=True).transforms, input_size)
    if drawn_for is not None and (reprob or crop_mode == 'rkrr'):
        what = 'random erasing hits' if reprob else "the crop mode 'rkrr' takes"
        raise UserError(f'{what} another part of an image of another size; choose another augmentation')
    try:
        stages = create_transform(
            **options,
            train_crop_mode='rrc' if crop_mode == 'pad' else crop_mode,
            scale=scale,
            ratio=ratio,
            hflip=hflip,
            vflip=vflip,
            color_jitter=color_jitter,
            auto_augment=aa or None,
            re_prob=reprob,
            re_mode=remode,
            re_count=recount,
            separate=True,
        )
    except (AssertionError, KeyError, ValueError, IndexError) as e:
        if not aa:
            raise
        raise UserError(f"timm cannot read the auto-augment string '{aa}'; one it can: 'rand-m9-mstd0.5-inc1'") from e
    steps = [step for stage in stages for step in stage.transforms]
    for step in steps:
        _allow_black_posterize(step)
    if crop_mode == 'pad':
        steps[:1] = _padded_crop(size, crop_padding, interpolation, drawn_for and _checked_size(drawn_for))
    return _with_channels(steps, input_size)


def create_eval_transform(
        *,
        input_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        interpolation: str = 'bilinear',
) -> transforms.Compose:
    """timm's evaluation transform: resize, centre crop, normalise.

    Args:
        input_size, mean, std: As `create_train_transform`.
        crop_pct: Input size / size resized to; timm's default of 0.875 if None.
        crop_mode: 'center', 'squash' or 'border'; 'center' if None.
        interpolation: Of resizing.

    Raises:
        UserError: A value out of its range.
    """
    size = _checked_size(input_size)
    _check_normalisation(mean, std)
    _check_choice('interpolation', interpolation, INTERPOLATIONS)
    if crop_mode is not None:
        _check_choice('evaluation crop mode', crop_mode, EVAL_CROP_MODES)
    if crop_pct is not None and not (math.isfinite(crop_pct) and crop_pct > 0):
        raise UserError(f'crop_pct must be above 0, got {crop_pct}')
    transform = create_transform(
        size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation, mean=tuple(mean), std=tuple(std))
    return _with_channels(transform.transforms, input_size)


def _with_channels(steps: Sequence, input_size) -> transforms.Compose:
    """The steps as one; for a network of one channel images become grey before they become a tensor."""
    steps = list(steps)
    if _channels(input_size) == 1:
        at = next(i for i, step in enumerate(steps) if isinstance(step, MaybeToTensor))
        steps.insert(at, transforms.Grayscale())
    return transforms.Compose(steps)


class ScaledCrop:
    """The part of an image that `RandomCrop(drawn_for, padding)` cuts of the image of another size, by its draws.

    Args:
        size: (height, width) of the image, and of what is cut.
        drawn_for: The other size.
        padding: Of the image of that size, in pixels on each side; black.
    """

    def __init__(self, size: tuple[int, int], drawn_for: tuple[int, int], padding: int):
        self.size, self.drawn_for, self.padding = size, drawn_for, padding

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = (side + 2 * self.padding for side in self.drawn_for)
        drawn = transforms.RandomCrop.get_params(Image.new('1', (width, height)), self.drawn_for)[:2]
        top, left = (
            round((offset - self.padding) * side / other)
            for offset, side, other in zip(drawn, self.size, self.drawn_for, strict=True))
        return F.crop(image, top, left, *self.size)  # black outside the image


def _padded_crop(size: tuple[int, int], padding: int, interpolation: str, drawn_for: tuple[int, int] | None) -> list:
    mode = str_to_interp_mode('bilinear' if interpolation == 'random' else interpolation)
    return [
        transforms.Resize(max(size), interpolation=mode),  # leaves a square one of this size as it is
        transforms.CenterCrop(size),  # of one that is not square, as in evaluation
        transforms.RandomCrop(size, padding=padding) if drawn_for is None else ScaledCrop(size, drawn_for, padding),
    ]


def _allow_black_posterize(step) -> None:
    """Let timm's auto-augmentation keep 0 bits: it does at its strongest, and Pillow from 13 on raises then."""
    for op in [*getattr(step, 'ops', ()), *(op for sequence in getattr(step, 'policy', ()) for op in sequence)]:
        if op.name.startswith('Posterize'):
            op.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **options) -> Image.Image:
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)  # black, as earlier versions of Pillow gave
    return posterize(image, bits_to_keep, **options)


def _channels(input_size) -> int:
    """As the size says; 3 where it says none."""
    return input_size[0] if not isinstance(input_size, int) and len(input_size) == 3 else 3


def _checked_size(input_size) -> tuple[int, int]:
    """(height, width) of any of timm's ways to give a size."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) not in (2, 3) or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f'the input size must be pixels, [channels,] height, width, got {input_size}')
    return size[-2:]


def _check_normalisation(mean, std) -> None:
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise UserError(f'mean and std need a value per channel, got {len(mean)} and {len(std)}')
    if not all(math.isfinite(value) for value in (*mean, *std)) or not all(value > 0 for value in std):
        raise UserError(f'mean and std must be finite and std above 0, got {tuple(mean)} and {tuple(std)}')


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {what} '{value}'{nearest(value, known)}")


def _check_range(name: str, value, crop_mode: str) -> None:
    if value is None:
        return
    if crop_mode == 'pad':
        raise UserError(f"{name} has no meaning with the crop mode 'pad'; leave it out, or use 'rrc'")
    if len(value) != 2 or not 0 < value[0] <= value[1] < math.inf:
        raise UserError(f'{name} must be two numbers above 0, the smaller first, got {value}')


def _checked_color_jitter(value) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    strengths = tuple(value) if isinstance(value, Sequence) else (value,)
    valid = len(strengths) in (1, 3, 4) and all(0 <= s < math.inf for s in strengths)
    if not valid or (len(strengths) == 4 and strengths[3] > 0.5):
        raise UserError(
            'colour jitter must be one strength >= 0, or those of brightness, contrast, saturation and perhaps hue '
            f'(at most 0.5), got {value}')
    if not any(strengths):
        return None
    return strengths if len(strengths) > 1 else strengths[0]
