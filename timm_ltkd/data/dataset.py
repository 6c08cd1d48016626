"""A dataset that knows its labels and classes, and may be a selection from another."""
import copy
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset
from torchvision.datasets.vision import StandardTransform, VisionDataset

from ..errors import UserError
from .labels import dataset_class_names, dataset_targets
from .reading import read_sample, sample_name
from .selection import int_vector


class LongTailedDataset(Dataset):
    """A selection of a map-style dataset's images, with their labels at hand.

    Samples are `(image, target)`, as the base makes them; a broken image is an error that names its file.

    Args:
        base: Map-style, its labels readable without decoding (see `dataset_targets`).
        indices: Positions in `base` to keep, in this order, [N]; all of them by default.
        class_names: By class index, [C]; those of `base` by default.

    Attributes:
        base: The dataset selected from.
        indices: int64 [N].
        targets: Class index of every kept image, int64 [N].
        class_names: [C].
        class_counts: Kept images of each class, int64 [C].

    Raises:
        UserError: Labels that cannot be read, an index out of range, a label without a class name.
    """

    def __init__(
            self,
            base: Dataset,
            indices: Sequence[int] | np.ndarray | None = None,
            *,
            class_names: Sequence[str] | None = None,
    ):
        targets = dataset_targets(base)
        self.base = base
        self.class_names = list(dataset_class_names(base) if class_names is None else class_names)
        self.indices = np.arange(len(targets)) if indices is None else _checked_positions(indices, len(targets))
        self.targets = targets[self.indices]
        if self.targets.size and self.targets.max() >= len(self.class_names):
            raise UserError(f'label {self.targets.max()} has no class name: there are {len(self.class_names)} classes')

    @property
    def class_counts(self) -> np.ndarray:
        return np.bincount(self.targets, minlength=len(self.class_names)).astype(np.int64)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The class index of every name."""
        return {name: index for index, name in enumerate(self.class_names)}

    @property
    def transform(self):
        """What turns an image into the input; that of `base`, also when it is set."""
        return getattr(self.base, 'transform', None)

    @transform.setter
    def transform(self, value):
        if hasattr(self.base, 'transform'):
            self.base.transform = value
            self._tell_torchvision()
        elif value is not None:
            raise UserError(f'{type(self.base).__name__} takes no transform: it has no such attribute')

    @property
    def target_transform(self):
        """What is applied to a target; that of `base`, also when it is set. `targets` are the labels before it."""
        return getattr(self.base, 'target_transform', None)

    @target_transform.setter
    def target_transform(self, value):
        self.base.target_transform = value  # type: ignore[attr-defined]  # all of timm and torchvision have it
        self._tell_torchvision()

    def _tell_torchvision(self) -> None:
        """Some of torchvision's data sets apply a pair of both transforms, made once (or a joint one of the user's)."""
        if isinstance(self.base, VisionDataset) and isinstance(
                getattr(self.base, 'transforms', None), StandardTransform | None):
            self.base.transforms = StandardTransform(self.base.transform, self.base.target_transform)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple:
        image, target = read_sample(self.base, int(self.indices[index]))
        return image, int(target) if isinstance(target, np.integer) else target

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str | None:
        """The file of a sample, relative to the root of its split unless asked otherwise; None where it has none."""
        return sample_name(self.base, int(self.indices[index]), basename, absolute)

    def subset(self, positions: Sequence[int] | np.ndarray) -> 'LongTailedDataset':
        """A selection from this one, of the same base and classes.

        Args:
            positions: In this dataset, [M].
        """
        positions = _checked_positions(positions, len(self))
        part = copy.copy(self)
        part.indices, part.targets = self.indices[positions], self.targets[positions]
        return part

    def with_transform(self, transform) -> 'LongTailedDataset':
        """The same images under another transform; this dataset, and whatever shares its base, keep theirs."""
        view = copy.copy(self)
        view.base = self.base.with_transform(None) if isinstance(self.base, LongTailedDataset) else copy.copy(self.base)
        view.transform = transform
        return view


def _checked_positions(positions, length: int) -> np.ndarray:
    array = int_vector(positions, 'indices')
    if array.size and (array.min() < 0 or array.max() >= length):
        raise UserError(f'indices must be from 0 to {length - 1}, got {array.min()} to {array.max()}')
    return array
