"""Data sets of the user's own code, known by a name as timm's are."""
from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils.data import Dataset

from ..errors import UserError, last_line
from .coloured import Coloured
from .names import PREFIX

Maker = TypeVar('Maker', bound=Callable[..., Dataset])
_DATASETS: dict[str, Callable[..., Dataset]] = {}


def register_dataset(name: str) -> Callable[[Maker], Maker]:
    """Decorator: make a class or function known as the data set `lt/NAME`.

    It is called as `make(root=…, split=…)`: the data folder (None if none was given), and the split (`train` and
    `validation` unless options say otherwise), with `download=True` where that was asked for. What it returns is a
    map-style data set: samples `(image, class index)`, the image of Pillow or uint8 `[H, W, 3]` and not augmented yet;
    `targets`, the class index of each, `[N]`, so that no image is decoded to count; `classes`, their names, if they
    have any. The training split may be balanced, or long-tailed already.

    Raises:
        UserError: A slash in the name.
    """
    if '/' in name:
        raise UserError(f"a data set cannot be called '{name}': choose a name without a slash")

    def add(make: Maker) -> Maker:
        _DATASETS[name] = make
        return make
    return add


def own_names() -> list[str]:
    """Names of all registered data sets, sorted."""
    return sorted(_DATASETS)


def create_own(name: str, root: Any, split: str, options: dict[str, Any]) -> Dataset:
    """A split of a registered data set.

    Args:
        name: As it was registered.
        root, split: Handed on.
        options: Handed on too, but for transforms.

    Raises:
        UserError: It fails.
    """
    transforms = {key: value for key, value in options.items() if key in ('transform', 'target_transform')}
    others = {key: value for key, value in options.items() if key not in transforms and value is not False}
    try:
        dataset = Coloured(_DATASETS[name](root=root, split=split, **others))
    except UserError:
        raise
    except Exception as e:  # whatever the user's own code raises
        raise UserError(f"'{PREFIX}{name}' gives no split '{split}': {last_line(e)} ({type(e).__name__})") from e
    for key, value in transforms.items():
        setattr(dataset, key, value)
    return dataset
